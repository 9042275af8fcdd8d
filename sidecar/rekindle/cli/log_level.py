"""``rekindle log-level``."""

from __future__ import annotations

import click

from rekindle.cli.target import Target, target_options


@click.command("log-level")
@click.argument("level", type=click.Choice(["debug", "info", "warning", "error"]))
@target_options
def log_level(level: str, target: Target) -> None:
    """Change what a running sidecar logs, until it restarts."""
    with target.client() as client:
        before = client.set_log_level(level)
    click.echo(f"log level {before} → {level}")
