"""How answers are printed: the one module behind ``-o table|wide|json|yaml|jsonl``.

json, yaml and jsonl give every field by the name it has in the API; tables give what a person wants to see, and more of
it with ``wide``. Tables are boxed on a terminal and plain columns in a pipe.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, is_dataclass
from typing import IO, Any, NamedTuple, TypeVar

import click

FORMATS = ("table", "wide", "json", "yaml", "jsonl")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Column(NamedTuple):
    """One column of a table."""

    title: str
    text: Callable[[Any], str]
    """Of one row's value."""
    is_number: bool = False
    is_wide: bool = False
    """Only with ``-o wide``."""


def output_option(command: Decorated) -> Decorated:
    """Adds ``-o``; it arrives as the argument ``output``."""
    choice = click.Choice(FORMATS)
    return click.option("-o", "--output", type=choice, default="table", show_default=True, help="How to print.")(
        command
    )


def show_rows(
    rows: Iterable[Any], columns: Sequence[Column], output: str, when_empty: str, without: Sequence[str] = ()
) -> None:
    """A list, as it comes for jsonl and as a whole for all else. ``without`` names fields that were not asked for."""
    if output == "jsonl":
        for row in rows:
            click.echo(json.dumps(plain(row, without), ensure_ascii=False))
    elif output in ("json", "yaml"):
        _dump([plain(row, without) for row in rows], output)
    else:
        show_table([*rows], columns, sys.stdout, output == "wide", when_empty)


def show_value(value: Any, lines: Sequence[tuple[str, str]], output: str, without: Sequence[str] = ()) -> None:
    """One value; ``lines`` are its names and texts for people."""
    if output in ("table", "wide"):
        width = max((len(name) for name, _ in lines), default=0)
        for name, text in lines:
            click.echo(f"{name:<{width}}  {text}".rstrip())
    elif output == "jsonl":
        click.echo(json.dumps(plain(value, without), ensure_ascii=False))
    else:
        _dump(plain(value, without), output)


def show_table(rows: Sequence[Any], columns: Sequence[Column], out: IO[str], is_wide: bool, when_empty: str) -> None:
    """A table, or a sentence where there is nothing."""
    if not rows:
        click.echo(when_empty, file=out)
        return
    shown = [column for column in columns if is_wide or not column.is_wide]
    texts = [[column.text(row) for column in shown] for row in rows]
    if out.isatty():
        _boxed(texts, shown, out)
        return
    widths = [max(len(line[i]) for line in [[c.title for c in shown], *texts]) for i in range(len(shown))]
    for line in [[column.title.upper() for column in shown], *texts]:
        cells = [
            text.rjust(width) if column.is_number else text.ljust(width)
            for text, width, column in zip(line, widths, shown, strict=True)
        ]
        click.echo("  ".join(cells).rstrip(), file=out)


def _boxed(texts: Sequence[Sequence[str]], columns: Sequence[Column], out: IO[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ROUNDED, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.is_number else "left", overflow="fold")
    for line in texts:
        table.add_row(*map(Text, line))
    Console(file=out, highlight=False).print(table)


def plain(value: Any, without: Sequence[str] = ()) -> Any:
    """A value of ours as JSON has it."""
    fields = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    if isinstance(fields, dict):
        fields = {name: content for name, content in fields.items() if name not in without}
    return json.loads(json.dumps(fields))


def _dump(value: Any, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # it is declared as None
    yaml.dump(value, sys.stdout)


def size(count_bytes: int) -> str:
    """``512 B``, ``1.5 GiB``."""
    if count_bytes < 1024:
        return f"{count_bytes} B"
    units = ("KiB", "MiB", "GiB", "TiB")
    power = min((count_bytes.bit_length() - 1) // 10, len(units))
    return f"{count_bytes / 1024**power:,.1f} {units[power - 1]}"


def duration(seconds: float) -> str:
    """``250 ms``, ``12.5 s``, ``3 min 20 s``, ``5 h 2 min``, ``3 d 4 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest_s} s"


def ago(moment_unix: float) -> str:
    """``12.5 s ago``; a moment of before this format had times reads ``long ago``."""
    if moment_unix < 1e9:
        return "long ago"
    return f"{duration(max(0.0, time.time() - moment_unix))} ago"


def count(number: int, noun: str) -> str:
    """``1 page``, ``1,200 pages``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
