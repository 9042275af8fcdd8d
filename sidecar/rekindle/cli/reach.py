"""Which sidecar a command talks to: the flags ``--socket`` and ``--run-dir``, and what counts without them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def reach_flags(command: Decorated) -> Decorated:
    """Adds both flags; they arrive as ``socket`` and ``run_dir``."""
    path = click.Path(path_type=Path)
    command = click.option("--run-dir", type=path, help="Else admin.sock in here. Default: as serve's.")(command)
    return click.option("--socket", type=path, help="The admin socket. Default: $REKINDLE_SOCKET.")(command)


def admin_socket(socket: Path | None, run_dir: Path | None) -> Path:
    """The nearest word counts: a flag before the environment, a socket before a folder. Raises ConfigError."""
    if socket is not None:
        return socket
    if run_dir is None and os.environ.get("REKINDLE_SOCKET"):
        return Path(os.environ["REKINDLE_SOCKET"])
    from rekindle.config import load

    return load({"run_dir": run_dir}, os.environ).config.admin_socket
