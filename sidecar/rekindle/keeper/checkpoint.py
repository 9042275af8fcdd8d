"""The continuous checkpoint of one engine: journal → backlog → claims → copiers, as far as there is room.

Runs on the keeper's event loop, woken by the engine's eventfd and by what the copiers have done. Never by a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable

import numpy as np
from rekindle_plugins.contract.fence import HEADER_BYTES as FENCE_HEADER_BYTES

from rekindle.keeper.attachment import LeaderAttachment
from rekindle.keeper.backlog import Backlog
from rekindle.keeper.gate import Gate
from rekindle.keeper.tally import Tally
from rekindle.keeper.transfers import Transfers

log = logging.getLogger("rekindle.engine")

RECORDS_PER_PUMP = 128
RECORDS_PER_DROP = 512
"""Room that is made in a full backlog: looking for it costs a look at every record."""
MAX_SAVING = 512
"""Pages claimed and not yet copied. The rest waits in the backlog, newest conversations first."""
NEVER = (1 << 64) - 1


class Checkpoint:
    """Follows one engine's journal. Without `transfers` (before its copiers start, during a reset) it waits."""

    def __init__(
        self,
        instance: str,
        leader: LeaderAttachment,
        tally: Tally,
        on_ring: Callable[[], None],
        on_commit: Callable[[], None],
        may_ask: Callable[[], bool],
        gate: Gate,
    ) -> None:
        """Args:
        on_ring: called when the engine rings: for pages, or because work has begun.
        on_commit: called before the records of a pump are taken.
        may_ask: whether the engine can still be asked to announce its pages.
        gate: an operator's pause, which ends with the engine: what it left behind is salvaged.
        """
        self.transfers: Transfers | None = None
        self.generation = leader.generation
        """The reset up to which the journal's records belong to the store that `transfers` saves into."""
        self.instance = instance
        self._leader = leader
        self._tally = tally
        self._on_ring = on_ring
        self._on_commit = on_commit
        self._may_ask = may_ask
        self._gate = gate
        self._is_salvage = False
        self._loop = asyncio.get_running_loop()
        self._is_scheduled = False
        self._backlog = Backlog(max(leader.group_tokens))
        self._announced = np.full(leader.page_count, NEVER, np.uint64)
        self._epochs = np.frombuffer(leader.fence.mapping, np.uint64, leader.page_count, FENCE_HEADER_BYTES)

    @property
    def pending(self) -> int:
        """Pages committed and not yet copied; bounded, since what the journal says may be anything."""
        transfers = self.transfers
        saving = transfers.saving + transfers.elsewhere if transfers is not None else 0
        return min(saving + self._unread, NEVER)

    @property
    def lag_s(self) -> float:
        """Age of the oldest page that is committed and not copied. Looked up when asked for, not kept up."""
        waiting = [self._backlog.oldest_seen_at, self._leader.journal.oldest_seen_at]
        waiting.append(self.transfers.oldest_seen_at if self.transfers is not None else None)
        seen_at = [at for at in waiting if at is not None]
        return max(0.0, time.monotonic() - min(seen_at)) if seen_at else 0.0

    @property
    def _unread(self) -> int:
        """Records that were not given to the copiers yet."""
        return len(self._backlog) + self._leader.journal.pending

    @property
    def live(self) -> int:
        """Announced pages that were not handed out again, as far as we know."""
        return int(np.count_nonzero(self._announced == self._epochs))

    @property
    def is_void(self) -> bool:
        """The engine reset its cache, and the reset has not come to us: nothing in the journal before it counts."""
        return self._leader.journal.generation != self.generation

    def restart(self, generation: int) -> None:
        """The engine's cache was reset: what was read before is void. Set `transfers` when the new store is there."""
        self.transfers = None
        self.generation = generation
        self._backlog.clear()

    def start(self) -> None:
        self._loop.add_reader(self._leader.wake_fd, self._rung)

    def announce_again(self) -> None:
        """Pages may be missing that the engine still has: it is asked to announce them when there is time for it."""
        if self.transfers is not None:
            self.transfers.needs_announce = True
            self.pump_soon()

    def begin_salvage(self) -> None:
        """The engine is dead: no more rings, and no pause holds its last pages back."""
        self._is_salvage = True
        self.stop()

    def stop(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            self._loop.remove_reader(self._leader.wake_fd)

    def close(self) -> None:
        """Lets go of the fence, so that it can be unmapped."""
        self.stop()
        self.transfers = None
        self._epochs = np.zeros(0, np.uint64)
        self._announced = np.zeros(0, np.uint64)

    def pump(self) -> None:
        self._is_scheduled = False
        transfers = self.transfers
        if transfers is None or self.is_void or not (self._gate.is_open or self._is_salvage):
            return
        may_read_more = self._read(transfers)
        transfers.save(self._backlog.take(min(RECORDS_PER_PUMP, MAX_SAVING - transfers.saving)))
        self._leader.journal.hold(len(self._backlog))
        transfers.flush()
        if may_read_more or (self._unread and transfers.saving < MAX_SAVING):
            self.pump_soon()
        elif transfers.needs_announce and self._may_ask() and not self._unread:
            transfers.needs_announce = False
            self._leader.peer.send("announce", lost=self._tally.lost_in_journal)

    def pump_soon(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self.pump)

    def after_rows(self) -> None:
        """The copiers have made room, or lost something."""
        if self.transfers is not None and (self.transfers.needs_announce or self._unread):
            self.pump_soon()

    def _rung(self) -> None:
        _read_ring(self._leader.wake_fd)
        self._on_ring()
        self.pump()

    def _read(self, transfers: Transfers) -> bool:
        """Journal → backlog, also while the copiers have no room: what came last is to be copied next. True: go on."""
        journal, tally = self._leader.journal, self._tally
        if journal.pending and not self._backlog.room:
            self._make_room(transfers)
        limit = min(RECORDS_PER_PUMP, self._backlog.room)
        journal.hold(len(self._backlog) + limit)
        drained = journal.drain(limit)
        for error in drained.errors:
            log.warning("event=record_dropped instance=%s error=%s", self.instance, error)
            tally.reject("bad-record")
        if drained.lost:
            tally.lost_in_journal = min(tally.lost_in_journal + drained.lost, NEVER)
            transfers.needs_announce = True
        if drained.records:
            tally.committed += len(drained.records)
            self._on_commit()
        for record in drained.records:
            self._announced[record.page_id] = record.epoch
            self._backlog.add(record)
        return bool(limit and journal.pending)

    def _make_room(self, transfers: Transfers) -> None:
        """In a full backlog: what was overwritten goes, or else what is oldest, to be announced again some time."""
        tally = self._tally
        tally.lost_to_overwrite += self._backlog.drop(lambda r: self._epochs[r.page_id] != r.epoch)
        dropped = self._backlog.drop_oldest(RECORDS_PER_DROP)
        if dropped:
            tally.reject("backlog-full", dropped)
            transfers.needs_announce = True


def _read_ring(wake_fd: int) -> None:
    """Never waits, though the engine shares the flag that says so, and may change it, and read before us."""
    try:
        os.preadv(wake_fd, [bytearray(8)], -1, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # Linux before 5.8, where this holds for engines that leave the flag alone
            with contextlib.suppress(OSError):
                os.eventfd_read(wake_fd)
