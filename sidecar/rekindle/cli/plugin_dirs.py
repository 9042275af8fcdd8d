"""The plugin directories of a command that is no ``serve``: found as ``serve`` finds them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def plugin_dir_flags(command: Decorated) -> Decorated:
    """Adds ``--plugin-dir`` and ``--config``; they arrive as ``plugin_dir`` and ``config_file``."""
    help_text = "Directories of plugins, ':' between them. Default: as serve's."
    command = click.option("--plugin-dir", metavar="VALUE", help=help_text)(command)
    path = click.Path(dir_okay=False, path_type=Path)
    return click.option("--config", "config_file", type=path, help="A TOML file, or $REKINDLE_CONFIG.")(command)


def plugin_dirs(config_file: Path | None, plugin_dir: str | None) -> tuple[Path, ...]:
    """Raises ConfigError. Plugins that cannot be loaded are these commands' answer, so they are not logged as well."""
    from rekindle.config import load

    logging.getLogger("rekindle.backends").setLevel(logging.ERROR)
    return load({"plugin_dir": plugin_dir}, os.environ, config_file).config.plugin_dirs
