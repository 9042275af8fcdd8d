"""A recovery report as a table for people: boxed and coloured on a terminal, plain columns in a pipe."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekindle.cli.report_phases import phases, printable, took
from rekindle.cli.status_table import reasons
from rekindle.lifecycle.status import RecoveryReport

_PIPE_WIDTH = 200


def show(report: RecoveryReport, out: IO[str]) -> None:
    on_terminal = out.isatty()
    console = Console(file=out, width=None if on_terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not on_terminal)
    table = Table(box=box.ROUNDED if on_terminal else None, pad_edge=on_terminal, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in _rows(report):
        table.add_row(name, Text(value))
    console.print(Text(f"Recovery #{report.number}", "bold"))
    console.print(table)


def table_text(report: RecoveryReport) -> str:
    """The plain table."""
    out = io.StringIO()
    show(report, out)
    return out.getvalue()


def _rows(report: RecoveryReport) -> Iterator[tuple[str, str]]:
    if report.began_unix is not None:
        yield "began", moment(report.began_unix)
    if report.died_instance is not None:
        yield "died", printable(f"{report.died_instance}: {report.reason}" if report.reason else report.died_instance)
    yield "next engine", printable(report.started_instance or "none yet")
    yield "identity", printable(report.identity)
    if report.died_instance is not None:
        yield "pages committed", f"{report.pages_committed:,}"
        yield "pages salvaged", f"{report.pages_salvaged:,}"
        yield "pages unsaved", f"{report.pages_unsaved:,}"
    yield "pages restored", f"{report.pages_restored:,}"
    yield "tokens saved", f"{report.tokens_restored:,}"
    yield "pages rejected", printable(reasons(report.pages_rejected)) or "none"
    for mismatch in report.mismatches:
        yield "does not fit", printable(mismatch)
    for phase in phases(report):
        yield phase.name, took(phase.took_s, "not over yet")
    yield "warm after", took(report.warm_s, "not yet")


def moment(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix))
