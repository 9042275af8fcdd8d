"""The status as tables for people: boxed and coloured on a terminal, plain columns in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekindle.cli.output import duration, size
from rekindle.lifecycle.status import EngineStatus, KeeperStatus, RecoveryReport, StoreStatus

_PIPE_WIDTH = 200
_MODES: Mapping[str, str] = {"paused": "nothing is checkpointed", "draining": "no engine is taken"}
_COLOURS: Mapping[str, str] = {"running": "green", "lost": "red", "salvaging": "red", "restoring": "yellow"}


def show(status: KeeperStatus, out: IO[str]) -> None:
    """Print ``status`` to ``out``. Identities and instances are cut to 12 characters; JSON has them whole."""
    on_terminal = out.isatty()
    # rich would take a pipe for 80 columns and cut numbers off.
    console = Console(file=out, width=None if on_terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not on_terminal)
    ready = _state(status)
    console.print(Text(f"rekindle {status.version}  ", "bold") + ready + Text(f"  up {duration(status.uptime_s)}"))
    moved = f"checkpointed {size(status.bytes_checkpointed)}, restored {size(status.bytes_restored)}"
    trouble = [f"copier crashes {status.copier_crashes}"] if status.copier_crashes else []
    trouble += [f"refused {reasons(status.refused)}"] if status.refused else []
    console.print("; ".join([moved, *trouble]))
    if status.mode != "serving":
        console.print(Text(f"{_MODES.get(status.mode, status.mode)}; `rekindle resume` ends that", "bold yellow"))
    _print(console, "Engines", _engines(status.engines, on_terminal), "no engine is attached")
    _print(console, "Stores", _stores(status.stores, on_terminal), "no store is open yet")
    for text in [f"{e.backend} {e.instance[:12]}: {e.note}" for e in status.engines if e.note]:
        console.print(text)
    for text in [f"{s.directory}: {message}" for s in status.stores for message in s.messages]:
        console.print(text)
    console.print(Text("\nLast recovery", "bold"))
    for line in _recovery(status.last_recovery):
        console.print(f"  {line}")


def _state(status: KeeperStatus) -> Text:
    """What an operator has told it to do comes before what it could do."""
    if not status.ready:
        return Text("not ready", "bold red")
    return Text("ready", "bold green") if status.mode == "serving" else Text(status.mode, "bold yellow")


def _print(console: Console, title: str, table: Table, when_empty: str) -> None:
    console.print(Text(f"\n{title}", "bold"))
    console.print(table if table.row_count else f"  {when_empty}")


def _table(on_terminal: bool, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=box.ROUNDED if on_terminal else None, pad_edge=on_terminal, header_style="bold")
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _engines(engines: Sequence[EngineStatus], on_terminal: bool) -> Table:
    numbers = ("ranks", "live", "checkpointed", "pending", "lost to overwrite", "restored", "rejected", "requests")
    table = _table(on_terminal, ("engine", "instance", "state"), numbers)
    for engine in engines:
        pages = engine.pages
        table.add_row(
            f"{engine.backend} {engine.engine_version}",
            engine.instance[:12],
            Text(engine.state, _COLOURS.get(engine.state, "") if engine.hung_s is None else "bold red"),
            f"{engine.ranks_attached}/{engine.world_size}",
            f"{pages.live:,}",
            f"{pages.checkpointed:,}",
            f"{pages.pending:,}",
            f"{pages.lost_to_overwrite:,}",
            f"{pages.restored:,}",
            f"{sum(pages.rejected.values()):,}",
            f"{engine.outstanding:,}",
        )
    return table


def _stores(stores: Sequence[StoreStatus], on_terminal: bool) -> Table:
    table = _table(on_terminal, ("directory", "identity"), ("used", "size", "full", "pages", "slots", "evicted"))
    for store in stores:
        full = f"{100 * store.used_bytes / store.size_bytes:.0f}%" if store.size_bytes else "–"
        counts = [f"{count:,}" for count in (store.pages, store.slots, store.evicted)]
        table.add_row(
            store.directory, store.identity[:12], size(store.used_bytes), size(store.size_bytes), full, *counts
        )
    return table


def _recovery(last: RecoveryReport | None) -> list[str]:
    if last is None:
        return ["no engine has died"]
    died, started = (last.died_instance or "–")[:12], (last.started_instance or "none yet")[:12]
    lines = [
        f"#{last.number}: {died} died{f' ({last.reason})' if last.reason else ''}; next engine: {started}",
        f"pages: {last.pages_committed:,} committed, {last.pages_salvaged:,} salvaged after the death, "
        f"{last.pages_unsaved:,} unsaved, {last.pages_restored:,} restored ({last.tokens_restored:,} tokens)",
    ]
    if last.pages_rejected:
        lines.append(f"rejected: {reasons(last.pages_rejected)}")
    if last.suspicion:
        lines.append(last.suspicion)
    if last.mismatches:
        lines.append(f"stored pages do not fit the engine: {', '.join(last.mismatches)} differ")
    times = {
        "salvage": last.salvage_s,
        "memory let go after": last.release_s,
        "down": last.down_s,
        "restore": last.restore_s,
    }
    known = [f"{name} {duration(seconds)}" for name, seconds in times.items() if seconds is not None]
    return [*lines, f"times: {', '.join(known)}"] if known else lines


def reasons(counts: Mapping[str, int]) -> str:
    """``checksum 3, orphan 1``, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)
