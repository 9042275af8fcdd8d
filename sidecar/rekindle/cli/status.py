"""``rekindle status``: ask the admin socket, print a table or JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--socket", type=click.Path(path_type=Path), help="The admin socket. Default: $REKINDLE_SOCKET.")
@click.option("--run-dir", type=click.Path(path_type=Path), help="Else admin.sock in here. Default: as serve's.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=5.0, show_default=True)
def status(output: str, socket: Path | None, run_dir: Path | None, timeout_s: float) -> None:
    """Show engines, stores and the last recovery of a running sidecar.

    Exits with 4 when the sidecar answers and is not ready, with 3 when it does not answer.
    """
    from rekindle.admin.client import AdminClient
    from rekindle.admin.failure import Exit

    with AdminClient(_socket(socket, run_dir), timeout_s) as client:
        found = client.status()
    if output == "json":
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        from rekindle.cli.status_table import show

        show(found, sys.stdout)
    sys.exit(Exit.OK if found.ready else Exit.DEGRADED)


def _socket(socket: Path | None, run_dir: Path | None) -> Path:
    """The nearest word counts: a flag before the environment, a socket before a folder."""
    if socket is not None:
        return socket
    if run_dir is None and os.environ.get("REKINDLE_SOCKET"):
        return Path(os.environ["REKINDLE_SOCKET"])
    from rekindle.config import load

    return load({"run_dir": run_dir}, os.environ).config.admin_socket
