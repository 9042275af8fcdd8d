"""``rekindle debug bundle``: one file with what a bug report needs, and nothing of what users said."""

from __future__ import annotations

import time
from pathlib import Path

import click

from rekindle.cli.reach import admin_socket, reach_flags
from rekindle.cli.times import Seconds


@click.group()
def debug() -> None:
    """Collect what a bug report needs."""


@debug.command()
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: one with the time.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="The sidecar's log, where it is a file.")
@click.option("--config", "config_file", type=click.Path(dir_okay=False, path_type=Path), help="As serve's.")
@reach_flags
@click.option("--timeout", "timeout_s", type=Seconds(0.1), default="5s", show_default=True, help="For each answer.")
def bundle(
    output: Path | None,
    log: Path | None,
    config_file: Path | None,
    socket: Path | None,
    run_dir: Path | None,
    timeout_s: float,
) -> None:
    """Write a tar.gz with versions, settings, status, metrics, recovery reports, log lines and facts of this machine.

    No page, no token and no text of a user is in it, and no secret; manifest.json in it lists what is. Works while the
    sidecar is down, too: what is missing is said.
    """
    from rekindle.cli.debug_bundle import Bundle
    from rekindle.cli.debug_parts import Scene, parts

    made_unix = time.time()
    path = output or Path(time.strftime("rekindle-debug-%Y%m%d-%H%M%S.tar.gz", time.gmtime(made_unix)))
    made = Bundle(made_unix)
    scene = Scene.of(admin_socket(socket, run_dir), config_file, log, timeout_s)
    for part in parts(scene):
        made.collect(part)
    byte_count = made.write(path)
    click.echo(f"wrote {path}: {len(made.files) + 1} files, {byte_count:,} bytes", err=True)
    for name, why in made.missing.items():
        click.echo(f"missing: {name}: {why}", err=True)
