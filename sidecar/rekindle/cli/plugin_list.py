"""``rekindle plugin list``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from rekindle.cli.plugin_dirs import plugin_dir_flags, plugin_dirs


@click.command("list")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@plugin_dir_flags
def list_plugins(output: str, plugin_dir: str | None, config_file: Path | None) -> None:
    """Show every plugin that was found: loaded, or why not.

    Of two of one name the later one wins: entry points first, then the plugin directories in their order.
    """
    from rekindle.backends import discover

    backends = discover(plugin_dirs(config_file, plugin_dir))
    try:
        rows = [_row(entry) for entry in backends.found]
    finally:
        backends.close()
    if output == "json":
        click.echo(json.dumps({"plugins": rows}, indent=2, ensure_ascii=False))
    else:
        _show(rows)


def _row(entry: Any) -> dict[str, Any]:
    info = entry.adapter.info if entry.adapter is not None else None
    return {
        "name": entry.name,
        "version": info.version if info else "",
        "contract": "{}.{}".format(*info.api_version) if info else "",
        "engine": info.engine if info else "",
        "capabilities": sorted(capability.value for capability in info.capabilities) if info else [],
        "source": entry.source,
        "loaded": info is not None,
        "problem": entry.problem,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    on_terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if on_terminal else 400, highlight=False, soft_wrap=not on_terminal)
    table = Table(box=box.ROUNDED if on_terminal else None, pad_edge=on_terminal, header_style="bold")
    for name in ("name", "version", "needs contract", "engine", "capabilities", "source", "loaded"):
        table.add_column(name, overflow="fold")
    for row in rows:
        loaded = Text("yes", "green") if row["loaded"] else Text(f"no: {row['problem']}", "red")
        # A plugin's words are printed, not obeyed: they may hold what rich takes for markup.
        words = [row[name] for name in ("name", "version", "contract", "engine")]
        table.add_row(*map(Text, words), Text(", ".join(row["capabilities"])), Text(row["source"]), loaded)
    console.print(table if rows else "no plugin was found")
