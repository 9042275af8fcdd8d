"""``rekindle plugin``: what is installed, what an engine needs for it, a new one, and whether one keeps its word."""

from __future__ import annotations

import click

from rekindle.cli.lazy import LazyCommand, LazyGroup


@click.group(
    cls=LazyGroup,
    commands_by_name={
        "list": LazyCommand(
            "rekindle.cli.plugin_list", "list_plugins", "Show every plugin, and why one is not loaded."
        ),
        "flags": LazyCommand("rekindle.cli.plugin_flags", "flags", "Print what to add to an engine's command."),
        "new": LazyCommand("rekindle.cli.plugin_new", "new", "Write a working plugin to start from."),
        "test": LazyCommand("rekindle.cli.plugin_test", "test", "Run the conformance kit against a plugin."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
def plugin() -> None:
    """Plugins: what teaches Rekindle an engine. docs/plugins.md tells how to write one."""
