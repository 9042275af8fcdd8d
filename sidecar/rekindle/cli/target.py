"""Which sidecar a command speaks to, and for how long it waits: the options that all of them have."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from rekindle.cli.reach import admin_socket, reach_flags
from rekindle.cli.times import Seconds

if TYPE_CHECKING:
    from rekindle.admin.client import AdminClient

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Target(NamedTuple):
    """Where the sidecar is."""

    socket: Path | None
    run_dir: Path | None
    timeout_s: float | None

    def path(self) -> Path:
        """Raises ConfigError."""
        return admin_socket(self.socket, self.run_dir)

    @contextmanager
    def client(self) -> Iterator[AdminClient]:
        """A connection for as long as it is used."""
        from rekindle.admin.client import LONG_S, AdminClient

        with AdminClient(self.path(), self.timeout_s or 5.0, self.timeout_s or LONG_S) as client:
            yield client


def target_options(command: Decorated) -> Decorated:
    """Adds ``--socket``, ``--run-dir`` and ``--timeout``; they arrive together as the argument ``target``."""
    import functools

    @functools.wraps(command)
    def gathered(*args: Any, socket: Path | None, run_dir: Path | None, timeout_s: float | None, **rest: Any) -> Any:
        return command(*args, target=Target(socket, run_dir, timeout_s), **rest)

    timeout_help = "How long to wait. Default: 5s, and hours for what reads the whole store."
    gathered = click.option("--timeout", "timeout_s", type=Seconds(0.1), help=timeout_help)(gathered)
    return reach_flags(gathered)  # type: ignore[return-value]  # it has the same arguments, but for those three


def yes_option(command: Decorated) -> Decorated:
    """Adds ``--yes``; for commands that take something away."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask. Needed where nobody can be asked.")(command)


def confirm(question: str, yes: bool) -> None:
    """Asks on a terminal. Elsewhere only ``--yes`` will do: exits 2 without it, and 1 when the answer is no."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{question} Nobody can be asked here: say --yes.")
    click.confirm(question, abort=True, err=True)
