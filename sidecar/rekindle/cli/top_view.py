"""The picture of ``rekindle top``: one frame for a terminal of a size. Pure.

header          version, ready, up, socket
╭ traffic ─────╮╭ store ──╮      charts get taller where there is room
╭ engines ────────────────╮      more columns where there is room
╭ sessions ───────────────╮      where there is room: those used last
╭ last recovery ──────────╮
footer          keys, what went wrong so far
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from rekindle.cli.output import duration, size
from rekindle.cli.report_phases import printable, took
from rekindle.cli.status_table import reasons
from rekindle.cli.top_rates import EngineRates, History
from rekindle.cli.top_sessions import session_table
from rekindle.lifecycle.inventory import Session
from rekindle.lifecycle.status import EngineStatus, KeeperStatus, RecoveryReport, StoreStatus

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = ".:-=+*%#"
_STATES = {"running": "green", "restoring": "yellow", "attached": "yellow", "lost": "red", "salvaging": "red"}
_FIXED_ROWS = 15
"""Lines of a frame without engines, whose charts have one row each."""
_MOST_CHART_ROWS = 6
_SESSIONS_FRAME = 3
"""Lines of the sessions' panel without sessions."""
_STATE_WIDTH = 9
_NAMES_WIDTH = 28
"""For an engine's name and instance together; with less, the columns that can be missed are left out."""


@dataclass(frozen=True)
class View:
    """What is to be shown. ``status`` is None until the first answer; ``problem`` says why there is no newer one."""

    status: KeeperStatus | None
    history: History
    socket: str
    problem: str = ""
    footer: str = ""
    sessions: Sequence[Session] = ()
    """The most recently used ones."""


def frame(view: View, width: int, height: int | None, ascii_only: bool = False) -> RenderableType:
    """``height`` None: as long as it gets."""
    if view.status is None:
        text = Text.assemble(
            (view.problem or "asking the sidecar…", "bold red" if view.problem else "bold"), justify="center"
        )
        return Group(_header(view, width), Panel(text, box=box.ROUNDED, padding=(1, 2)), _footer(view, width))
    status = view.status
    session_rows, chart_rows, most = _rows(view, len(status.engines), height)
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    right = min(44, max(30, width * 2 // 5))
    upper = Table.grid(expand=True)
    upper.add_column(ratio=1)
    upper.add_column(width=right)
    upper.add_row(
        _panel("traffic", _traffic(status, view.history, width - right - 4, chart_rows, blocks)),
        _panel("store", _store(status.stores, right - 4, 3 * chart_rows, blocks)),
    )
    panels: list[RenderableType] = [upper, _panel("engines", _engines(status.engines, view.history, width, most))]
    if session_rows:
        panels.append(_panel("sessions", session_table(view.sessions[:session_rows], width - 4)))
    body = Group(*panels, _panel("last recovery", _recovery(status.last_recovery)))
    # What is shown of a sidecar that is gone is what it said last.
    return Group(_header(view, width), Styled(body, "dim") if view.problem else body, _footer(view, width))


def _rows(view: View, engine_count: int, height: int | None) -> tuple[int, int, int]:
    """How many sessions there is room for, how high the charts are, and for how many engines' lines there is room."""
    if height is None:
        return len(view.sessions), 1, engine_count
    spare = height - _FIXED_ROWS - max(1, engine_count)
    sessions = max(0, min(len(view.sessions), spare // 2 - _SESSIONS_FRAME))
    session_lines = sessions + _SESSIONS_FRAME if sessions else 0
    charts = max(1, min(_MOST_CHART_ROWS, 1 + (spare - session_lines) // 3))
    return sessions, charts, max(1, height - (_FIXED_ROWS - 3) - 3 * charts - session_lines)


def render_text(view: View, console: Console) -> None:
    """Prints one frame, as long as it gets."""
    console.print(frame(view, console.width, None, console.options.ascii_only))


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=f"[bold]{title}[/bold]", title_align="left", box=box.ROUNDED, border_style="dim")


def _header(view: View, width: int) -> Text:
    status = view.status
    left = Text(" rekindle ", "bold")
    if view.problem:
        left.append("● sidecar unreachable, retrying", "bold red")
    elif status is not None:
        left.append(f"{status.version} ", "bold")
        left.append(*("● ready", "green") if status.ready else ("● not ready", "bold red"))
    if status is not None:
        left.append(f"  up {duration(status.uptime_s)}", "dim" if view.problem else "")
    return _line(left, Text(f"{view.socket} ", "dim"), width)


def _footer(view: View, width: int) -> Text:
    trouble = Text()
    if view.status is not None:
        counts = [
            ("restarts", view.status.restarts, "yellow"),
            ("copier crashes", view.status.copier_crashes, "red"),
            ("refused", sum(view.status.refused.values()), "red"),
        ]
        for name, count, colour in counts:
            trouble.append(f"{name} {count:,}  ", colour if count else "dim")
    return _line(Text(f" {view.footer}", "dim"), trouble, width)


def _line(left: Text, right: Text, width: int) -> Text:
    """Both on one line; where there is no room for both, the right one's end is what stays of it."""
    room = width - left.cell_len - 1
    if right.cell_len > room:
        right = Text("…", "dim") + right[len(right) - max(0, room - 1) :]
    return Text().append_text(left).append(" " * max(0, width - left.cell_len - right.cell_len)).append_text(right)


def _traffic(status: KeeperStatus, history: History, width: int, rows: int, blocks: str) -> Group:
    """Each series in ``rows`` lines: its figures, and below them its chart where there is a line left for it."""
    rates = history.rates
    lag_s = max((engine.pages.lag_s for engine in status.engines), default=0.0)
    pending = sum(engine.pages.pending for engine in status.engines)
    saved = (rates.pages_checkpointed, rates.bytes_checkpointed) if rates else None
    filled = (rates.pages_restored, rates.bytes_restored) if rates else None
    shown: list[RenderableType] = []
    for name, figures, series, colour in (
        ("checkpoint", _figures(saved), history.checkpointed, "green"),
        ("restore", _figures(filled), history.restored, "cyan"),
        ("lag", (f"{pending:,} pages", took(lag_s, "")), history.pending, "yellow"),
    ):
        shown.append(Text.assemble((f"{name:<11}", colour), f"{figures[0]:>15}{figures[1]:>16}", no_wrap=True))
        if rows > 1:
            shown.append(Text(chart(series, width, rows - 1, blocks), colour, no_wrap=True))
    return Group(*shown)


def _figures(rates: tuple[float, float] | None) -> tuple[str, str]:
    return (f"{rates[0]:,.0f} pages/s", f"{size(int(rates[1]))}/s") if rates else ("– pages/s", "–")


def chart(series: Sequence[float], width: int, rows: int, blocks: str = _BLOCKS) -> str:
    """The last ``width`` values, the newest at the right, from zero to the largest of them, in ``rows`` lines."""
    shown = list(series)[-width:]
    top = max(shown, default=0.0)
    levels = [round(value / top * rows * len(blocks)) if top > 0 else 0 for value in shown]
    lines = []
    for row in reversed(range(rows)):
        cells = [min(len(blocks), level - row * len(blocks)) for level in levels]
        cells = [max(1, cell) if row == 0 else cell for cell in cells]  # the ground line shows that there is a value
        lines.append("".join(blocks[cell - 1] if cell > 0 else " " for cell in cells).rjust(width))
    return "\n".join(lines)


def _store(stores: Sequence[StoreStatus], width: int, rows: int, blocks: str) -> Text:
    used, whole = sum(s.used_bytes for s in stores), sum(s.size_bytes for s in stores)
    if not whole:
        return Text("no store is open yet\n" + "\n" * (rows - 2), "dim")
    share = used / whole
    filled = round(share * (width - 5))
    bar = Text(blocks[-1] * filled, "blue").append(
        (blocks[0] if blocks is _ASCII_BLOCKS else "░") * (width - 5 - filled), "dim"
    )
    pages, slots = sum(s.pages for s in stores), sum(s.slots for s in stores)
    lines = [
        bar.append(f" {share:>4.0%}", "bold"),
        Text(f"{size(used)} of {size(whole)}"),
        Text(f"{pages:,} of {slots:,} pages"),
        Text(f"{sum(s.pinned for s in stores):,} pinned, {sum(s.evicted for s in stores):,} evicted"),
    ]
    told = [Text(printable(message), "yellow") for store in stores for message in store.messages]
    shown = (lines + told)[:rows]
    for line in shown:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(shown + [Text()] * (rows - len(shown)))


_Column = tuple[str, bool, Callable[[EngineStatus, EngineRates | None], str]]
"""Title, only where there is room, cell."""
_COLUMNS: Sequence[_Column] = (
    ("ranks", True, lambda e, _: f"{e.ranks_attached}/{e.world_size}"),
    ("requests", False, lambda e, _: f"{e.outstanding:,}"),
    ("steps/s", True, lambda _, r: f"{r.steps:,.0f}" if r else "–"),
    ("step age", True, lambda e, _: duration(e.step_age_s) if e.step_age_s is not None else "idle"),
    ("live", False, lambda e, _: f"{e.pages.live:,}"),
    ("pages/s", False, lambda _, r: f"{r.pages_checkpointed:,.0f}" if r else "–"),
    ("pending", False, lambda e, _: f"{e.pages.pending:,}"),
    ("lost", False, lambda e, _: f"{e.pages.lost_to_overwrite:,}"),
    ("rejected", True, lambda e, _: f"{sum(e.pages.rejected.values()):,}"),
    ("shim/step", True, lambda e, _: f"{e.shim_us_per_step:.0f} µs"),
)


def _engines(engines: Sequence[EngineStatus], history: History, width: int, most: int) -> RenderableType:
    if not engines:
        return Text("no engine is attached", "dim")
    shown = engines if len(engines) <= most else engines[: most - 1]
    for columns in (_COLUMNS, [column for column in _COLUMNS if not column[1]]):
        rows = [[cell(e, history.engines.get(e.instance)) for _, _, cell in columns] for e in shown]
        widths = [max(len(name), *(len(row[i]) for row in rows)) for i, (name, _, _) in enumerate(columns)]
        # Numbers are never cut: what they leave is for the names.
        room = width - 4 - _STATE_WIDTH - sum(widths) - 2 * (len(columns) + 2)
        if room >= _NAMES_WIDTH:
            break
    engine_width = max(4, min(room * 2 // 5, 18))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name, cut in (("engine", engine_width), ("instance", max(4, room - engine_width)), ("state", _STATE_WIDTH)):
        table.add_column(name, no_wrap=True, width=cut)
    for (name, _, _), wide in zip(columns, widths, strict=True):
        table.add_column(name, justify="right", no_wrap=True, width=wide)
    for engine, row in zip(shown, rows, strict=True):
        named = printable(f"{engine.backend} {engine.engine_version}"), printable(engine.instance)
        table.add_row(*named, Text(engine.state, _STATES.get(engine.state, "")), *row)
    if len(shown) < len(engines):
        return Group(table, Text(f"… and {len(engines) - len(shown)} more", "dim"))
    return table


def _recovery(last: RecoveryReport | None) -> Text:
    if last is None:
        return Text("no engine has died\n\n", "dim")
    died = f"{printable(last.died_instance)[:12]} died" if last.died_instance else "found after the sidecar's restart"
    state = ("finished", "green") if last.finished_unix is not None else ("under way", "yellow")
    first = Text.assemble((f"#{last.number} ", "bold"), state, f"  {died}")
    if last.reason:
        first.append(f" ({printable(last.reason)})")
    first.append(f", next engine {printable(last.started_instance)[:12] if last.started_instance else 'none yet'}")
    times = [
        ("salvage", last.salvage_s),
        ("memory let go", last.release_s),
        ("attached", last.down_s),
        ("warm", last.warm_s),
    ]
    second = ", ".join(f"{name} {took(seconds, '')}" for name, seconds in times if seconds is not None)
    rejected = f", rejected {printable(reasons(last.pages_rejected))}" if last.pages_rejected else ""
    third = (
        f"{last.pages_restored:,} pages put back ({last.tokens_restored:,} tokens), {last.pages_salvaged:,} salvaged, "
    )
    lost = (f"{last.pages_unsaved:,} lost", "red" if last.pages_unsaved else "")
    lines = [first, Text(second or "–"), Text.assemble(third, lost, rejected)]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)
