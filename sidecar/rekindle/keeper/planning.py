"""The restore plan as messages, and fill requests as rows: the keeper's side of both, with all checks."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from rekindle_plugins.contract.errors import ProtocolError
from rekindle_plugins.contract.journal import LAZY_ONLY, ROOT
from rekindle_plugins.contract.wire import Message

from rekindle.keeper.peer import Peer
from rekindle.keeper.transfers import FillRow
from rekindle.store.catalog import Catalog
from rekindle.store.page import PageEntry
from rekindle.store.slot_table import SlotState

MAX_PLAN_PAGES = 1 << 20
MAX_FILL_ROWS = 1024
MESSAGE_CHARS = 64 * 1024
QUEUED_MESSAGES = 16
"""Parts of a plan that may wait for the leader to read them."""
READ_POLL_S = 0.002

PlanRow = list[str | int]


def plan_messages(entries: Iterable[PageEntry]) -> Iterator[tuple[list[PlanRow], bool]]:
    """(rows, is last) in messages of a bounded size: key, parent, group, tokens (u32 little-endian, hex)."""
    rows: list[PlanRow] = []
    chars = 0
    for entry in entries:
        tokens = struct.pack(f"<{len(entry.tokens)}I", *entry.tokens).hex()
        rows.append([entry.key.hex(), entry.parent.hex(), entry.group, tokens])
        chars += 160 + len(tokens)
        if chars >= MESSAGE_CHARS:
            yield rows, False
            rows, chars = [], 0
    yield rows, True


async def send_plan(peer: Peer, plan_id: int, entries: Iterable[PageEntry]) -> None:
    """The plan, as fast as its asker reads."""
    for rows, is_last in plan_messages(entries):
        peer.send("pages", plan_id=plan_id, pages=rows, last=is_last)
        await asyncio.sleep(0)
        while peer.queued > QUEUED_MESSAGES:
            await asyncio.sleep(READ_POLL_S)


def planned_pages(catalog: Catalog, max_pages: int) -> Iterator[PageEntry]:
    """The pages that could come back into a fresh engine, the best first, parents before children."""
    for slot in catalog.restore_order(max_pages):
        if catalog.state(slot) is not SlotState.STORED:
            continue  # it has gone between two messages: another engine on this store needed the room
        entry = catalog.entry(slot)
        if not entry.flags & LAZY_ONLY:
            yield entry


def unsuspected_pages(catalog: Catalog, max_pages: int, since_tick: int) -> Iterator[PageEntry]:
    """As `planned_pages`, without the pages that were used after that tick, and without what hangs on them."""
    withheld: set[tuple[int, bytes]] = set()
    count = 0
    for entry in planned_pages(catalog, catalog.counters().slot_count):
        if count >= max_pages:
            return
        if entry.last_use > since_tick or (entry.parent != ROOT and (entry.group, entry.parent) in withheld):
            withheld.add((entry.group, entry.key))
        else:
            count += 1
            yield entry


def read_fill_rows(rows: list[Any], page_count: int, group_count: int, peer: str) -> list[FillRow]:
    """Raises ProtocolError when a row is not [page id, epoch, group, key in hex] of this engine."""
    if len(rows) > MAX_FILL_ROWS:
        raise ProtocolError("fill", peer, f"{len(rows)} pages in one message, at most {MAX_FILL_ROWS}")
    found: list[FillRow] = []
    for row in rows:
        try:
            page_id, epoch, group, key = row
            parsed = FillRow(page_id, epoch, group, bytes.fromhex(key))
            is_possible = 0 <= page_id < page_count and 0 <= group < group_count and 0 <= epoch < 1 << 64
        except (ValueError, TypeError) as error:
            raise ProtocolError("fill", peer, f"{row!r:.120} is no fill row") from error
        if not is_possible or len(parsed.key) != 32 or not all(isinstance(v, int) for v in row[:3]):
            raise ProtocolError("fill", peer, f"{row!r:.120} cannot be: {page_count} pages, {group_count} groups")
        found.append(parsed)
    return found


def read_restored(message: Message, instance: str) -> tuple[int, int, dict[str, int], float]:
    """(pages, tokens, rejected by reason, seconds) of a restore, as the shim tells it. Raises ProtocolError."""
    rejected = {reason[:40]: count for reason, count in list(message["rejected"].items())[:32]}
    counts = [message["restored"], message["tokens"], *rejected.values()]
    if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in counts) or not all(map(str.isprintable, rejected)):
        raise ProtocolError("receive", f"report from {instance}", "its counts cannot be")
    return message["restored"], message["tokens"], rejected, float(message["seconds"])
