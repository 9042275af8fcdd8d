"""``rekindle plugin new``: a plugin that works, to be changed step by step."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("name")
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Where to.")
def new(name: str, directory: Path) -> None:
    """Write the folder NAME: a plugin for a tiny engine, with its tests. It passes the conformance kit as it is."""
    from rekindle.skeleton import write

    folder = write(name, directory)
    click.echo(f"wrote {folder}; next: rekindle plugin test {folder}")
