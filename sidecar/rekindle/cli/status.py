"""``rekindle status``: ask the admin socket, print a table or data."""

from __future__ import annotations

import sys

import click

from rekindle.cli.output import output_option, show_value
from rekindle.cli.target import Target, target_options


@click.command()
@output_option
@target_options
def status(output: str, target: Target) -> None:
    """Show engines, stores and the last recovery of a running sidecar.

    Exits with 4 when the sidecar answers and is not ready, with 3 when it does not answer.
    """
    from rekindle.admin.failure import Exit

    with target.client() as client:
        found = client.status()
    if output in ("table", "wide"):
        from rekindle.cli.status_table import show

        show(found, sys.stdout)
    else:
        show_value(found, (), output)
    sys.exit(Exit.OK if found.ready else Exit.DEGRADED)
