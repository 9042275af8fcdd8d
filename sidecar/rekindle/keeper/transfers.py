"""The way of a page between an engine and the arena, as the keeper steers it. No page byte passes through here.

    save   record → claim a slot → every rank's copier copies and checks the fence → publish    (or discard)
    load   fill → hold the slot  → every rank's copier verifies and fills the page → answer     (or drop a bad page)

All ranks have a page, or nobody has it: a page is published, and a fill is answered well, only when every lane said OK.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rekindle_plugins.contract.journal import Record

from rekindle.copier.protocol import DoneRow, LoadRow, SaveRow, Status
from rekindle.keeper.lane import Lane, Row
from rekindle.keeper.tally import Tally
from rekindle.store.catalog import Catalog
from rekindle.store.page import U16, U64, ClaimOutcome, PublishOutcome, Slot
from rekindle.store.slot_table import SlotState

log = logging.getLogger("rekindle.transfer")

MAX_MISSING_PARENTS = 4096
REASONS = {Status.FENCE_MOVED: "fence-moved", Status.CHECKSUM: "checksum", Status.OUT_OF_RANGE: "out-of-range"}


@dataclass
class _Save:
    slot: Slot
    record: Record
    waiting: int
    checksums: list[bytes]
    failed: str = ""
    successor: Record | None = None
    """The same page announced anew (another epoch, perhaps another place) while this copy was under way."""


@dataclass
class _Load:
    fill_id: int
    page_id: int
    slot: Slot
    waiting: int
    failed: str = ""


@dataclass(frozen=True)
class FillRow:
    page_id: int
    epoch: int
    group: int
    key: bytes


@dataclass
class Transfers:
    """All transfers of one engine with one catalog."""

    catalog: Catalog
    group_bytes: Sequence[int]
    """Bytes of a page of each group, all ranks together."""
    tally: Tally
    answer: Callable[[int, list[tuple[int, str]]], None]
    """Called with a fill id and (page id, reason or "") for pages that are certainly over."""
    lanes: list[Lane] = field(default_factory=list)
    wake: Callable[[], None] = lambda: None
    """Called when there is something to do because of another engine."""
    needs_announce: bool = False
    """Set when pages were lost on our side: the shim should announce what is still live."""
    _missing_parents: set[tuple[int, bytes]] = field(default_factory=set)
    """Parents for want of which live pages were turned away. When one is stored after all, its children can follow."""
    _elsewhere: dict[tuple[int, bytes], Record] = field(default_factory=dict)
    """Pages that another engine on this catalog is copying. Where it fails, ours are copied after all."""
    _again: list[Record] = field(default_factory=list)
    _saves: dict[int, _Save] = field(default_factory=dict)
    _loads: dict[int, _Load] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.catalog.attach(self)

    async def close(self) -> None:
        """No copier of these lanes exists after this. Can be called again, also while it is under way."""
        self.catalog.detach(self)
        await asyncio.gather(*(lane.close() for lane in self.lanes))

    @property
    def saving(self) -> int:
        return len(self._saves)

    @property
    def oldest_seen_at(self) -> float | None:
        """When the record of the page that is being saved longest was first seen."""
        return min((save.record.seen_at for save in self._saves.values()), default=None)

    @property
    def elsewhere(self) -> int:
        """Pages that wait for what becomes of another engine's copy."""
        return len(self._elsewhere) + len(self._again)

    @property
    def loading(self) -> int:
        return len(self._loads)

    def save(self, records: Iterable[Record]) -> None:
        """Claims a slot for each new page and sends it to every lane."""
        again, self._again = self._again, []
        for record in [*again, *records]:
            claim = self.catalog.claim(record.key, record.parent, record.group, record.flags, record.tokens)
            if claim.outcome is ClaimOutcome.CLAIMED and claim.slot is not None:
                self._saves[claim.slot] = _Save(claim.slot, record, len(self.lanes), [b""] * len(self.lanes))
                row = SaveRow(claim.slot, record.page_id, record.group, record.epoch)
                for lane in self.lanes:
                    lane.save(row)
            elif claim.outcome is ClaimOutcome.ALREADY_CLAIMED and claim.slot not in self._saves:
                self._elsewhere[record.group, record.key] = record
            elif claim.outcome in (ClaimOutcome.ALREADY_STORED, ClaimOutcome.ALREADY_CLAIMED):
                self.tally.already_stored += 1
                save = self._saves.get(claim.slot) if claim.slot is not None else None
                if save is not None and claim.outcome is ClaimOutcome.ALREADY_CLAIMED:
                    save.successor = record
            elif claim.outcome is ClaimOutcome.ORPHAN:
                self._turn_away(record)
            else:
                self.tally.reject("store-full")

    def fill(self, fill_id: int, rows: Sequence[FillRow]) -> None:
        """Sends stored pages to every lane; answers at once for those that are not stored or are being filled."""
        refused: list[tuple[int, str]] = []
        loads: list[list[LoadRow]] = [[] for _ in self.lanes]
        for row in rows:
            slot = self.catalog.lookup(row.key, row.group)
            if slot is None or row.page_id in self._loads:
                refused.append((row.page_id, "not-stored" if slot is None else "busy"))
                continue
            self.catalog.hold(slot)
            self.catalog.touch(slot)
            checksums = self.catalog.entry(slot).checksums
            self._loads[row.page_id] = _Load(fill_id, row.page_id, slot, len(self.lanes))
            for rank, part in enumerate(loads):
                part.append(LoadRow(slot, row.page_id, row.group, row.epoch, checksums[rank]))
        if refused:
            self._answer(fill_id, refused)
        for lane, part in zip(self.lanes, loads, strict=True):
            lane.load(part)

    def flush(self) -> None:
        for lane in self.lanes:
            lane.flush()

    def take_rows(self, rank: int, rows: Sequence[tuple[Row, DoneRow | None]]) -> None:
        """What a lane has done, in order. `None` instead of an answer means that its copier died."""
        answers: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for row, done in rows:
            if isinstance(row, SaveRow):
                self._take_save(rank, row, done)
            else:
                load = self._take_load(row, done)
                if load is not None:
                    answers[load.fill_id].append((load.page_id, load.failed))
        for fill_id, pages in answers.items():
            self._answer(fill_id, pages)
        if self._again:
            self.save(())
            self.flush()

    def _take_save(self, rank: int, row: SaveRow, done: DoneRow | None) -> None:
        save = self._saves.get(row.slot)
        if save is None:
            return
        save.waiting -= 1
        if done is None:
            save.failed = "copier-lost"
        elif done.status is not Status.OK:
            save.failed = save.failed or REASONS[done.status]
        else:
            save.checksums[rank] = done.checksum
        if save.waiting:
            return
        del self._saves[row.slot]
        if save.failed:
            self.catalog.discard(save.slot)
            self._count_failed_save(save.failed)
            if save.successor is not None and save.failed == "fence-moved":
                self._again.append(save.successor)
        else:
            self._publish(save)

    def _publish(self, save: _Save) -> None:
        outcome = self.catalog.publish(save.slot, save.checksums)
        if outcome is PublishOutcome.PUBLISHED:
            self.tally.checkpointed += 1
            self.tally.bytes_checkpointed += self.group_bytes[save.record.group]
        elif outcome is PublishOutcome.ORPHAN:
            self._turn_away(save.record)
        else:
            self.needs_announce = True  # another engine's reset cleared the catalog; this one's pages are good

    # -- what happens in the catalog, by whomever (see `ChangeListener`) ---------------------------------------

    def page_added(self, key: bytes, group: int) -> None:
        if self._elsewhere.pop((group, key), None) is not None:
            self.tally.already_stored += 1
        if (group, key) in self._missing_parents:
            self._missing_parents.discard((group, key))
            self.needs_announce = True
            self.wake()

    def claim_given_back(self, key: bytes, group: int) -> None:
        record = self._elsewhere.pop((group, key), None)
        if record is not None:
            self._again.append(record)
            self.wake()

    def pages_cleared(self) -> None:
        """By another engine's reset: this one's pages are as good as before, and gone."""
        self.needs_announce = True
        self.wake()

    def page_removed(self, key: bytes, group: int) -> None:
        return

    def pages_added(self, keys: U64, groups: U16) -> None:
        return

    def _turn_away(self, record: Record) -> None:
        self.tally.reject("orphan")
        if len(self._missing_parents) < MAX_MISSING_PARENTS:
            self._missing_parents.add((record.group, record.parent))

    def _count_failed_save(self, reason: str) -> None:
        if reason == "fence-moved":
            self.tally.lost_to_overwrite += 1
            return
        self.tally.reject(reason)
        self.needs_announce = self.needs_announce or reason == "copier-lost"

    def _take_load(self, row: LoadRow, done: DoneRow | None) -> _Load | None:
        """The load when all lanes have answered."""
        load = self._loads.get(row.page_id)
        if load is None or load.slot != row.slot:
            return None
        load.waiting -= 1
        if done is None:
            load.failed = load.failed or "copier-lost"
        elif done.status is not Status.OK:
            load.failed = REASONS[done.status]
        if load.waiting:
            return None
        del self._loads[row.page_id]
        if load.failed == "checksum":
            self._drop_bad(load, row)
        self.catalog.release(load.slot)
        if not load.failed:
            self.tally.bytes_restored += self.group_bytes[row.group]
        return load

    def _drop_bad(self, load: _Load, row: LoadRow) -> None:
        """A page whose bytes changed is gone at once, and with it what can only be reached through it."""
        if self.catalog.state(load.slot) is SlotState.STORED:
            dropped = self.catalog.drop(load.slot)
            log.error("event=page_damaged slot=%d group=%d pages_dropped=%d", load.slot, row.group, dropped)

    def _answer(self, fill_id: int, pages: list[tuple[int, str]]) -> None:
        for _, reason in pages:
            if reason:
                self.tally.reject(reason)
            else:
                self.tally.restored += 1
        self.answer(fill_id, pages)
