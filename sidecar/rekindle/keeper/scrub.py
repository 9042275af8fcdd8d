"""Looking at the bytes of stored pages: every checksum, one page, and what an engine would get if it started now.

Runs on the keeper's event loop, with the bytes on the worker's thread. A page is held only while it is being read, and
its slot is asked for again at its turn: checkpoint, eviction and engines go on meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rekindle_plugins.contract.journal import LAZY_ONLY

from rekindle.keeper.arena_bytes import ArenaBytes, Worker
from rekindle.keeper.inventory import Inventory, page
from rekindle.keeper.long_work import Tell
from rekindle.keeper.refusals import NotNowError, RequestError
from rekindle.keeper.stores import Judge, OpenStore
from rekindle.lifecycle.inventory import PageDetail
from rekindle.lifecycle.progress import DamagedPage, Progress, RestorePlan, Verification
from rekindle.store.catalog import Catalog
from rekindle.store.page import PageEntry, Slot
from rekindle.store.slot_table import SlotState

log = logging.getLogger("rekindle.store")

DAMAGED_TOLD = 100


@dataclass(frozen=True)
class Checked:
    """A page whose bytes were read: `damaged_ranks` is empty where all is well."""

    entry: PageEntry
    damaged_ranks: tuple[int, ...]


class Scrub:
    """`announce` asks the engines that use a store to announce their pages again: some have left it."""

    def __init__(self, inventory: Inventory, worker: Worker, announce: Callable[[OpenStore], None]) -> None:
        self._inventory = inventory
        self._worker = worker
        self._announce = announce

    async def inspect(self, key: str, with_tokens: bool) -> PageDetail:
        """One page in full. Raises RequestError, NotFoundError, StoreError."""
        store, slot = self._inventory.page_of(key)
        found, content = page(store, slot), store.catalog.entry(slot).tokens
        with self._inventory.stores.borrow(store):
            (checked,) = await self._check(store, ArenaBytes(store), [slot])
        sums = tuple(checksum.hex() for checksum in checked.entry.checksums)
        return PageDetail(found, sums, checked.damaged_ranks, content if with_tokens else ())

    async def verify(self, identity: str, session_id: str, dry_run: bool, tell: Tell) -> Verification:
        """Reads pages and compares every checksum.

        A damaged page leaves the store together with what can only be reached through it, as it does when an engine
        asks for it. Raises RequestError, NotFoundError, and UnavailableError when the store is closed meanwhile.
        """
        began = time.monotonic()
        damaged: list[DamagedPage] = []
        damaged_count = dropped = done = size_bytes = 0
        work = self._work(identity, session_id)
        total = sum(len(slots) for _, slots in work)
        for store, slots in work:
            with self._inventory.stores.borrow(store) as borrow:
                arena_bytes = ArenaBytes(store)
                for part in parts_of(slots, arena_bytes.pages_per_turn()):
                    for checked in await self._check(store, arena_bytes, part):
                        entry = checked.entry
                        size_bytes += store.parts.page_bytes(entry.group)
                        if checked.damaged_ranks:
                            damaged_count += 1
                            damaged.append(DamagedPage(entry.key.hex(), store.name, entry.slot, checked.damaged_ranks))
                            dropped += 0 if dry_run else self._drop(store, entry)
                    borrow.check("verify")
                    done += len(part)
                    tell(Progress(done, total, size_bytes))
        log.info("event=verified pages=%d damaged=%d dropped=%d", done, damaged_count, dropped)
        seconds = time.monotonic() - began
        return Verification(done, size_bytes, tuple(damaged[:DAMAGED_TOLD]), damaged_count, dropped, seconds)

    async def restore_plan(self, store: OpenStore, room: int | None, judge: Judge, tell: Tell) -> RestorePlan:
        """What an engine with `room` pages (None: any number) would be given, verified as it would be on its way."""
        began = time.monotonic()
        mismatches = await self._inventory.stores.mismatches(store.identity, judge)
        catalog = store.catalog
        slots = catalog.restore_order(len(catalog.stored_slots()))
        bad: set[tuple[bytes, int]] = set()
        rejected: Counter[str] = Counter()
        pages = tokens = size_bytes = done = 0
        with self._inventory.stores.borrow(store) as borrow:
            arena_bytes = ArenaBytes(store)
            for part in parts_of(slots, arena_bytes.pages_per_turn()):
                for checked in await self._check(store, arena_bytes, part):
                    entry = checked.entry
                    reason = _rejection(checked, bad, room is not None and pages >= room)
                    if reason:
                        rejected[reason] += 1
                        bad.add((entry.key, entry.group))
                        continue
                    pages, tokens = pages + 1, tokens + len(entry.tokens)
                    size_bytes += store.parts.page_bytes(entry.group)
                borrow.check("restore")
                done += len(part)
                tell(Progress(done, len(slots), size_bytes))
        seconds = time.monotonic() - began
        return RestorePlan(store.name, pages, tokens, size_bytes, dict(rejected), mismatches, seconds)

    def _work(self, identity: str, session_id: str) -> list[tuple[OpenStore, Sequence[Slot]]]:
        if session_id and identity:
            raise RequestError("verify", "pages", "a session and an identity are named", "name one of them")
        if session_id:
            return [self._inventory.session_of(session_id)]
        return [(s, list(map(Slot, s.catalog.stored_slots().tolist()))) for s in self._inventory.opened(identity)]

    async def _check(self, store: OpenStore, arena_bytes: ArenaBytes, slots: Sequence[Slot]) -> list[Checked]:
        """Those of `slots` that are stored now, read and compared."""
        with held(store.catalog, slots) as entries:

            def look() -> list[Checked]:
                return [Checked(e, arena_bytes.damaged_ranks(e.slot, e.group, e.checksums)) for e in entries]

            return await self._worker.run(look)

    def _drop(self, store: OpenStore, entry: PageEntry) -> int:
        """The page's slot may have another page by now, or none."""
        if store.catalog.lookup(entry.key, entry.group) != entry.slot:
            return 0
        dropped = store.catalog.drop(entry.slot)
        log.error("event=page_damaged slot=%d group=%d pages_dropped=%d", entry.slot, entry.group, dropped)
        self._announce(store)
        return dropped


@contextmanager
def held(catalog: Catalog, slots: Sequence[Slot]) -> Iterator[list[PageEntry]]:
    """The entries of those slots that are stored, which stay in their places meanwhile."""
    kept = [slot for slot in slots if catalog.state(slot) is SlotState.STORED]
    entries = [catalog.entry(slot) for slot in kept]
    for slot in kept:
        catalog.hold(slot)
    try:
        yield entries
    finally:
        for slot in kept:
            catalog.release(slot)


def refuse_restore() -> None:
    """Why a restore that is more than a dry run is none. Raises NotNowError, always."""
    raise NotNowError(
        "restore",
        "engines",
        "pages go into an engine when it starts and when a request asks for them, not into one that just runs",
        "restart the engine, or just go on with the conversation; --dry-run shows what would come back",
    )


def _rejection(checked: Checked, bad: set[tuple[bytes, int]], is_full: bool) -> str:
    entry = checked.entry
    if checked.damaged_ranks:
        return "checksum"
    if entry.flags & LAZY_ONLY:
        return "lazy-only"
    if is_full:
        return "no-room"
    return "parent" if (entry.parent, entry.group) in bad else ""


def parts_of(slots: Sequence[Slot], size: int) -> Iterator[Sequence[Slot]]:
    """Slots a few at a time."""
    for start in range(0, len(slots), size):
        yield slots[start : start + size]
