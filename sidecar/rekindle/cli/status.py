"""``rekindle status``: ask the admin socket, print a table or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from rekindle.cli.reach import admin_socket, reach_flags


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@reach_flags
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=5.0, show_default=True)
def status(output: str, socket: Path | None, run_dir: Path | None, timeout_s: float) -> None:
    """Show engines, stores and the last recovery of a running sidecar.

    Exits with 4 when the sidecar answers and is not ready, with 3 when it does not answer.
    """
    from rekindle.admin.client import AdminClient
    from rekindle.admin.failure import Exit

    with AdminClient(admin_socket(socket, run_dir), timeout_s) as client:
        found = client.status()
    if output == "json":
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        from rekindle.cli.status_table import show

        show(found, sys.stdout)
    sys.exit(Exit.OK if found.ready else Exit.DEGRADED)
