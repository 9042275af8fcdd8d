"""``rekindle plugin flags``: for people who start their engine by hand."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from rekindle.cli.plugin_dirs import plugin_dir_flags, plugin_dirs


@click.command()
@click.argument("name")
@click.option("--run-dir", type=click.Path(path_type=Path), help="The sidecar's. Default: as serve's.")
@plugin_dir_flags
def flags(name: str, run_dir: Path | None, plugin_dir: str | None, config_file: Path | None) -> None:
    """Print what to add to the command and the environment of NAME's engine, ready for a shell."""
    from rekindle_plugins.contract.adapter import RUN_DIR_VARIABLE

    from rekindle.backends import discover
    from rekindle.cli.engine_command import is_alone, plugin_places
    from rekindle.config import load

    backends = discover(plugin_dirs(config_file, plugin_dir))
    try:
        adapter = backends.named(name)
        words = adapter.flags()
        mine = [entry.folder.path for entry in backends.found if entry.adapter is adapter and entry.folder]
    finally:
        backends.close()
    sockets = load({"run_dir": run_dir}, os.environ, config_file).config.run_dir
    places = plugin_places(mine)
    path = os.pathsep.join(map(str, places))
    click.echo(f"environment: PYTHONPATH={shlex.quote(path)} {RUN_DIR_VARIABLE}={shlex.quote(str(sockets))}")
    click.echo(f"command: {shlex.join(words)}" if words else "command: nothing to add")
    if not is_alone(places[0]):
        hint = "it holds other packages too; for an engine with packages of its own, unpack the wheel into a folder"
        click.echo(f"note: {places[0]}: {hint}", err=True)
