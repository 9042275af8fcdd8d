"""Following a real journal: who is copied first when the copiers do not keep up."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rekindle.copier.protocol import DoneRow, SaveRow, Status
from rekindle.keeper import backlog
from rekindle.keeper import checkpoint as checkpoint_module
from rekindle.keeper.attachment import LeaderAttachment
from rekindle.keeper.checkpoint import MAX_SAVING, Checkpoint
from rekindle.keeper.gate import Gate
from rekindle.keeper.tally import Tally
from rekindle.keeper.transfers import Transfers
from rekindle.store import PageGeometry, Store
from rekindle_plugins.contract import Fence, Identity, JournalReader, JournalWriter
from rekindle_plugins.contract import journal as journal_module
from rekindle_plugins.contract.identity import REQUIRED
from rekindle_plugins.contract.journal import ROOT, pack_payload

PAGES = 4 * MAX_SAVING


@dataclass
class RememberingLane:
    saves: list[SaveRow] = field(default_factory=list)

    def save(self, row: SaveRow) -> None:
        self.saves.append(row)

    def flush(self) -> None:
        return


@dataclass
class Scene:
    journal: JournalWriter
    fence: Fence
    checkpoint: Checkpoint
    transfers: Transfers
    lane: RememberingLane
    tally: Tally
    wake_fd: int
    next_page: int = 0

    def commit(self, session: str, count: int) -> list[int]:
        """Page ids of `count` pages of a new conversation, in order."""
        parent, ids = ROOT, []
        for number in range(count):
            key = hashlib.sha256(f"{session} {number}".encode()).digest()
            ids.append(self.next_page)
            self.journal.append(pack_payload(self.next_page, 0, 0, 0, key, parent, (1, 2)))
            parent, self.next_page = key, self.next_page + 1
        return ids

    def turn(self) -> None:
        """All pumps that are due."""
        for _ in range(PAGES):
            self.checkpoint.pump()

    def finish(self, count: int) -> None:
        """The copier has done the first `count` rows that it has not done yet."""
        rows, self.lane.saves = self.lane.saves[:count], self.lane.saves[count:]
        self.transfers.take_rows(0, [(row, DoneRow(row.slot, row.page_id, Status.OK, b"c" * 16)) for row in rows])

    @property
    def waiting(self) -> list[int]:
        return [row.page_id for row in self.lane.saves]


@contextmanager
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Store(tmp_path, 8 << 20) as store:
        opened = store.open(b"i" * 32, "{}", PageGeometry(64, 1, 2))
        journal, fence = JournalWriter(2, PAGES), Fence.create(PAGES)
        reader = JournalReader(os.dup(journal.fd), PAGES, (2,))
        identity = Identity.of(dict.fromkeys(REQUIRED, "x"))
        wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        leader = LeaderAttachment(None, identity, 0, [], PAGES, (2,), reader, fence, wake_fd)  # type: ignore[arg-type]
        tally, lane = Tally(), RememberingLane()
        transfers = Transfers(opened.catalog, [64], tally, lambda _, __: None, lanes=[lane])  # type: ignore[list-item]
        checkpoint = Checkpoint("engine", leader, tally, lambda: None, lambda: None, lambda: False, Gate())
        checkpoint.transfers = transfers
        yield Scene(journal, fence, checkpoint, transfers, lane, tally, wake_fd)
        checkpoint.close()
        os.close(wake_fd)


def test_a_copier_that_lags_gets_the_newest_conversation_next(tmp_path: Path) -> None:
    async def run() -> None:
        with scene(tmp_path) as s:
            s.commit("first", MAX_SAVING)
            s.turn()
            assert len(s.waiting) == MAX_SAVING
            old, new = s.commit("old", 100), s.commit("new", 100)
            s.turn()
            s.finish(150)
            s.turn()
            assert s.waiting[MAX_SAVING - 150 :] == new + old[:50]
            assert s.checkpoint.pending == MAX_SAVING + 50

    asyncio.run(run())


def test_a_reset_forgets_what_waits(tmp_path: Path) -> None:
    async def run() -> None:
        with scene(tmp_path) as s:
            s.commit("first", MAX_SAVING)
            s.turn()
            s.commit("old", 100)
            s.turn()
            s.checkpoint.restart(s.journal.raise_generation())
            assert s.checkpoint.pending == 0
            assert not s.checkpoint.is_void

    asyncio.run(run())


def test_pages_that_were_overwritten_while_they_waited_make_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MAX_RECORDS", 100)

    async def run() -> None:
        with scene(tmp_path) as s:
            s.commit("first", MAX_SAVING)
            s.turn()
            old = s.commit("old", 100)
            s.turn()
            new = s.commit("new", 100)
            s.turn()
            assert s.tally.lost_to_overwrite == 0
            s.fence.raise_pages(old)
            s.turn()
            assert s.tally.lost_to_overwrite == 100
            s.finish(100)
            s.turn()
            assert s.waiting[MAX_SAVING - 100 :] == new

    asyncio.run(run())


@dataclass
class Clock:
    """In the place of the module `time`."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(journal_module, "time", made)
    monkeypatch.setattr(checkpoint_module, "time", made)
    return made


def test_the_lag_is_the_age_of_the_oldest_page_that_is_not_copied(tmp_path: Path, clock: Clock) -> None:
    async def run() -> None:
        with scene(tmp_path) as s:
            assert s.checkpoint.lag_s == 0
            s.commit("first", 10)
            s.turn()
            clock.now = 103
            s.commit("second", 5)
            s.turn()
            clock.now = 104
            assert s.checkpoint.lag_s == 4
            s.finish(9)
            assert s.checkpoint.lag_s == 4, "one of the first is still there"
            s.finish(1)
            assert s.checkpoint.lag_s == 1
            s.finish(5)
            assert s.checkpoint.lag_s == 0

    asyncio.run(run())


def test_pages_that_wait_in_the_backlog_age_there(tmp_path: Path, clock: Clock) -> None:
    async def run() -> None:
        with scene(tmp_path) as s:
            s.commit("first", MAX_SAVING)
            s.turn()
            clock.now = 105
            s.commit("old", 100)
            s.turn()
            clock.now = 110
            s.commit("new", 20)
            s.turn()
            clock.now = 120
            s.finish(MAX_SAVING)
            assert s.checkpoint.lag_s == 15
            s.turn()
            s.finish(20)
            assert s.checkpoint.lag_s == 15, "the newest went first"
            s.finish(100)
            assert s.checkpoint.lag_s == 0
            assert s.checkpoint.pending == 0

    asyncio.run(run())


def test_what_nobody_copies_yet_has_a_lag_too(tmp_path: Path, clock: Clock) -> None:
    async def run() -> None:
        with scene(tmp_path) as s:
            s.checkpoint.transfers = None
            s.commit("before the copiers start", 1)
            assert s.checkpoint.lag_s == 0, "seen just now"
            clock.now = 102
            assert s.checkpoint.lag_s == 2

    asyncio.run(run())


def test_a_full_backlog_drops_its_oldest_conversations_for_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MAX_RECORDS", 600)

    async def run() -> None:
        with scene(tmp_path) as s:
            s.commit("first", MAX_SAVING)
            s.turn()
            for number in range(6):
                s.commit(f"old {number}", 100)
            s.turn()
            assert not s.transfers.needs_announce
            new = s.commit("new", 200)
            s.turn()
            assert s.journal.backlog == 300, "all is read: the newest, and the last one of the old"
            s.finish(200)
            s.turn()
            assert s.waiting[MAX_SAVING - 200 :] == new
            assert s.transfers.needs_announce, "what was dropped is asked for again"
            assert s.tally.rejected == {"backlog-full": 500}

    asyncio.run(run())


def test_an_announcer_waits_for_what_the_backlog_holds(tmp_path: Path) -> None:
    async def run() -> None:
        with scene(tmp_path) as s:
            s.commit("first", MAX_SAVING)
            s.turn()
            assert s.journal.backlog == 0
            s.commit("announced again", 100)
            s.turn()
            assert s.journal.backlog == 100
            s.finish(MAX_SAVING)
            s.turn()
            assert s.journal.backlog == 0

    asyncio.run(run())


def test_a_ring_that_the_engine_took_back_does_not_stop_the_keeper(tmp_path: Path) -> None:
    async def run() -> None:
        with scene(tmp_path) as s:
            os.set_blocking(s.wake_fd, True)
            rescue = threading.Timer(20, os.eventfd_write, (s.wake_fd, 1))
            rescue.start()
            s.checkpoint._rung()
            assert rescue.is_alive(), "the keeper waited for an engine"
            rescue.cancel()
            os.eventfd_write(s.wake_fd, 5)
            s.checkpoint._rung()
            os.set_blocking(s.wake_fd, False)
            with pytest.raises(BlockingIOError):
                os.eventfd_read(s.wake_fd)

    asyncio.run(run())
