"""``rekindle version``."""

from __future__ import annotations

import platform
from importlib import metadata

import click


@click.command()
def version() -> None:
    """Print the version of Rekindle, of the contract engines speak, and of Python."""
    from rekindle_plugins.contract.wire import API_VERSION

    contract = ".".join(map(str, API_VERSION))
    click.echo(f"rekindle {metadata.version('rekindle')}, contract {contract}, Python {platform.python_version()}")
