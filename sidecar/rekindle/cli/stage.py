"""`rekindle stage DIR`: put the engine half where an engine's container finds it. An init container's whole work."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
from rekindle_plugins.contract.errors import ConfigError


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--plugin-dir", default="", help="Directories of plugins, ':' between them.")
def stage(directory: Path, plugin_dir: str) -> None:
    """Copy the plugins' engine half into DIRECTORY, to be put on the engine's PYTHONPATH."""
    import rekindle_plugins

    from rekindle.backends.folder import plugin_folders

    packages = [Path(next(iter(rekindle_plugins.__path__)))]
    for part in plugin_dir.split(":") if plugin_dir else ():
        for folder in plugin_folders(Path(part)):
            packages += [entry for entry in folder.iterdir() if (entry / "__init__.py").is_file()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for package in packages:
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(package, directory / package.name, dirs_exist_ok=True, ignore=ignore)
    except (OSError, shutil.Error) as error:
        raise ConfigError("stage", str(directory), str(error), "is it writable, with some MiB free?") from None
    click.echo(f"staged {', '.join(package.name for package in packages)} in {directory}", err=True)
