"""A click group whose commands are imported when they are run; listing them imports nothing."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem


class LazyCommand(NamedTuple):
    """Where a command lives, and its line in the group's help."""

    module: str
    attribute: str
    help: str

    def exists(self) -> bool:
        """Whether the module is there, found without running it."""
        return importlib.util.find_spec(self.module) is not None

    def load(self) -> click.Command:
        """Import the module; its own import errors are raised as they are."""
        command = getattr(importlib.import_module(self.module), self.attribute)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """Commands by name, in the order given. One whose module is absent is not listed."""

    def __init__(self, *args: Any, commands_by_name: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = {name: command for name, command in commands_by_name.items() if command.exists()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._lazy[cmd_name].load() if cmd_name in self._lazy else None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Our own help texts: click would load every command to ask for its."""
        found = [CompletionItem(n, help=c.help) for n, c in self._lazy.items() if n.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own would load every command to ask for its help.
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self._lazy.items()])
