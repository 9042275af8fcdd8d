"""``rekindle top``: a live view of one sidecar, redrawn with each answer."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rekindle_plugins.contract.errors import RekindleError

from rekindle.cli.reach import admin_socket, reach_flags
from rekindle.cli.times import Seconds

if TYPE_CHECKING:
    from rich.console import Console

    from rekindle.cli.top_view import View

_PIPE_WIDTH = 120
_DEADLINE_S = 2.0
_QUIT_KEYS = b"qQ\x03\x04"
"""Beside q: Ctrl-C and Ctrl-D, should the terminal hand them on."""


@click.command()
@reach_flags
@click.option(
    "--interval", "interval_s", type=Seconds(0.1, 60), default="1s", show_default=True, help="Between two looks."
)
@click.option("--once", is_flag=True, help="One picture of one interval, and no more; so where it is no terminal, too.")
def top(socket: Path | None, run_dir: Path | None, interval_s: float, once: bool) -> None:
    """Watch a running sidecar: traffic, lag, store, engines, sessions, restarts and the last recovery.

    q ends it. A sidecar that goes away is waited for.
    """
    from rich.console import Console

    path = admin_socket(socket, run_dir)
    if once or not sys.stdout.isatty():
        width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or _PIPE_WIDTH)
        _once(path, interval_s, Console(width=width, highlight=False))
    else:
        _watch(path, interval_s, Console(highlight=False))


def _once(socket: Path, interval_s: float, console: Console) -> None:
    """Raises UnavailableError."""
    from rekindle.admin.client import AdminClient
    from rekindle.cli.top_rates import History
    from rekindle.cli.top_terminal import look
    from rekindle.cli.top_view import View, render_text

    history = History()
    with AdminClient(socket) as client:
        history.add(client.status())
        time.sleep(interval_s)
        status, sessions = look(client)
        history.add(status)
    render_text(View(status, history, str(socket), sessions=sessions), console)


def _watch(socket: Path, interval_s: float, console: Console) -> None:
    from rich.live import Live

    from rekindle.cli.top_rates import History
    from rekindle.cli.top_terminal import Poller, keys, signals
    from rekindle.cli.top_view import View, frame

    poller = Poller(socket, interval_s, _DEADLINE_S)
    view = View(None, History(), str(socket), footer=f"q quit   every {interval_s:g} s")
    with signals(poller) as ended, keys() as fds, Live(console=console, screen=True, auto_refresh=False) as live:
        poller.start()
        try:
            while not ended.is_set():
                live.update(frame(view, *console.size, console.options.ascii_only), refresh=True)
                ready, _, _ = select.select([poller.fd, *fds], [], [])
                for answer in poller.take():
                    view = _after(view, answer)
                if any(_wants_quit(fd) for fd in fds if fd in ready):
                    return
        except KeyboardInterrupt:
            return
        finally:
            poller.stop()


def _after(view: View, answer: object) -> View:
    """The view with one answer more. Raises what is not ours to show."""
    from dataclasses import replace

    from rekindle.cli.top_terminal import Seen

    if isinstance(answer, Seen):
        view.history.add(answer.status)
        return replace(view, status=answer.status, sessions=answer.sessions, problem="")
    if isinstance(answer, RekindleError):
        return replace(view, problem=f"sidecar unreachable, retrying: {answer.problem}")
    assert isinstance(answer, Exception)
    raise answer


def _wants_quit(fd: int) -> bool:
    """Also at the terminal's end."""
    pressed = os.read(fd, 64)
    return not pressed or any(key in _QUIT_KEYS for key in pressed)
