"""The flags of ``serve`` and ``run``, made from ``config.SETTINGS``: one row there is one flag here.

Values stay text until ``config.load`` parses them, so that a bad flag and a bad variable give the same message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from rekindle.config import SETTINGS, Loaded, load

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def config_flags(command: Decorated) -> Decorated:
    """Add ``--config`` and a flag for every setting; they arrive as keyword arguments by setting name, or None."""
    for setting in reversed(SETTINGS):
        if setting.is_switch:
            flag = f"{setting.flag}/--no-{setting.flag[2:]}"
            command = click.option(flag, setting.name, default=None, help=setting.help)(command)
        else:
            command = click.option(setting.flag, setting.name, metavar="VALUE", help=setting.help)(command)
    path = click.Path(dir_okay=False, path_type=Path)
    help_text = "A TOML file with the same names, or $REKINDLE_CONFIG. Flags and REKINDLE_* come first."
    return click.option("--config", "config_file", type=path, help=help_text)(command)


def load_config(config_file: Path | None, flags: Mapping[str, object]) -> Loaded:
    """Settle the settings of this process. Raises ConfigError."""
    return load(flags, os.environ, config_file)


def as_arguments(config_file: Path | None, flags: Mapping[str, object]) -> list[str]:
    """The command line that gives the same flags to another ``serve``."""
    arguments = ["--config", str(config_file.absolute())] if config_file is not None else []
    for setting in SETTINGS:
        value = flags.get(setting.name)
        if isinstance(value, bool):
            arguments.append(setting.flag if value else f"--no-{setting.flag[2:]}")
        elif value is not None:
            arguments += [setting.flag, str(value)]
    return arguments
