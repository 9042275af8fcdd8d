"""The sessions' panel of ``rekindle top``. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from rekindle.cli.output import ago, size
from rekindle.cli.report_phases import printable
from rekindle.cli.session import pinned
from rekindle.lifecycle.inventory import Session

_NUMBERS = ("tokens", "pages", "size", "last used", "pinned")
_ID_WIDTH = 12


def session_table(sessions: Sequence[Session], width: int) -> Table:
    """``width``: columns of the terminal. Numbers are never cut: what they leave is for the engine's request id."""
    rows = [
        (f"{s.token_count:,}", f"{s.page_count:,}", size(s.size_bytes), ago(s.last_used_unix), pinned(s))
        for s in sessions
    ]
    widths = [max(len(name), *(len(row[i]) for row in rows)) for i, name in enumerate(_NUMBERS)]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("session", no_wrap=True, width=_ID_WIDTH)
    table.add_column("request", no_wrap=True, width=max(4, width - _ID_WIDTH - sum(widths) - 2 * (len(widths) + 1)))
    for name, wide in zip(_NUMBERS, widths, strict=True):
        table.add_column(name, justify="right", no_wrap=True, width=wide)
    for session, row in zip(sessions, rows, strict=True):
        table.add_row(session.id, printable(session.request_id) or "–", *row)
    return table
