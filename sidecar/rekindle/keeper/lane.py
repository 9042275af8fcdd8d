"""One rank's lane: its copier, and the rows waiting for it, loads before saves.

Runs on the keeper's event loop. Rows are answered in order, so the lane knows what is outstanding. When the copier
dies, the outstanding rows are looked at after the process was reaped, never before: until then it might still write.
Loads are failed; saves are given to the next copier once, since the engine may be gone before it could announce their
pages again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rekindle_plugins.contract.geometry import Region

from rekindle.copier.memory import ArenaPart
from rekindle.copier.process import CopierProcess
from rekindle.copier.protocol import DoneRow, LoadRow, SaveRow, Status, pack_loads, pack_saves
from rekindle.keeper.tally import CopierWork

log = logging.getLogger("rekindle.copier")

PACKETS_IN_FLIGHT = 2
ROWS_PER_PACKET = 64
BYTES_PER_PACKET = 32 << 20
MAX_SAVE_S, MIN_SAVE_BYTES = 0.01, 64 << 10
"""Under a cap, a packet of saves is so long: a load, which has no cap, waits for those that were sent before it."""
QUICK_RESPAWNS = 3
RESPAWN_DELAY_S = 1.0
MAX_RESPAWN_DELAY_S = 30.0
"""For copiers that never become ready (no such GPU, no rights): trying costs a start of the interpreter each time."""
START_TIMEOUT_S = 10.0
"""A copier starts in some tenths of a second, on a machine that has time for it; and only then the timeout counts."""

Row = SaveRow | LoadRow


@dataclass(frozen=True)
class LaneSpec:
    """What a copier needs. The descriptors stay the owner's."""

    region: Region
    buffers: tuple[int, ...]
    arena_fd: int
    part: ArenaPart
    fence_fd: int
    lock_fd: int
    """The store's lock, inherited so that it is held until the last copier is gone."""
    bandwidth: int = 0
    """Cap on checkpointing in bytes per second; 0 is none."""


class Lane:
    """Feeds one copier. `on_rows` gets (row, done) for each row once; done is None when its copier died."""

    def __init__(
        self,
        spec: LaneSpec,
        timeout_s: float,
        on_rows: Callable[[list[tuple[Row, DoneRow | None]]], None],
        on_lifeline: Callable[[list[int], Callable[[], None]], None],
        on_crash: Callable[[str], None],
        work: CopierWork,
    ) -> None:
        """`on_lifeline([lifeline, pidfd], sent)`: hand both to the shim, and call `sent` when they are on their way.

        No load before that: the shim must know of every copier that may write to its pages.
        """
        self.spec = spec
        self.work = work
        self.crashes = 0
        self._timeout_s = timeout_s
        self._on_rows = on_rows
        self._on_lifeline = on_lifeline
        self._on_crash = on_crash
        cap = spec.bandwidth
        self._save_bytes = max(MIN_SAVE_BYTES, int(cap * MAX_SAVE_S)) if cap else BYTES_PER_PACKET
        self._loads: deque[LoadRow] = deque()
        self._saves: deque[SaveRow] = deque()
        self._sent: deque[Row] = deque()
        self._retried: set[SaveRow] = set()
        self._packets: deque[int] = deque()
        self._part_bytes = [group.part_bytes for group in spec.region.groups]
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._failed_starts = 0
        self._copier: CopierProcess | None = None
        self._announced: CopierProcess | None = None
        """The copier whose lifeline the shim has."""
        self._spawn()

    @property
    def pending(self) -> int:
        return len(self._loads) + len(self._saves) + len(self._sent)

    @property
    def is_ready(self) -> bool:
        """False while a copier is starting, or waits to be started again."""
        return self._copier is not None and self._copier.is_ready

    @property
    def pid(self) -> int | None:
        return self._copier.pid if self._copier is not None else None

    def load(self, rows: Sequence[LoadRow]) -> None:
        self._loads.extend(rows)

    def save(self, row: SaveRow) -> None:
        """Failed at once when the lane has been closed: nobody will come to copy it."""
        if self._closed:
            self._fail([row])
        else:
            self._saves.append(row)

    def flush(self) -> None:
        """Sends what fits into the copier's window."""
        rows_max = self._rows_of(BYTES_PER_PACKET)
        saves_max = min(rows_max, self._rows_of(self._save_bytes))
        while self._copier is not None and len(self._packets) < PACKETS_IN_FLIGHT:
            is_load = bool(self._loads) and self._announced is self._copier
            if is_load:
                loads = [self._loads[i] for i in range(min(rows_max, len(self._loads)))]
                sent, count = self._copier.send(pack_loads(loads)), len(loads)
            elif self._saves:
                saves = [self._saves[i] for i in range(min(saves_max, len(self._saves)))]
                sent, count = self._copier.send(pack_saves(saves)), len(saves)
            else:
                return
            if not sent:
                return
            queue: deque[LoadRow] | deque[SaveRow] = self._loads if is_load else self._saves
            self._sent.extend(queue.popleft() for _ in range(count))
            self._packets.append(count)
            self._watch()
            self.work.set_busy(self.is_ready)

    def _rows_of(self, packet_bytes: int) -> int:
        return max(1, min(ROWS_PER_PACKET, packet_bytes // max(1, self.spec.part.length)))

    async def close(self) -> None:
        """Kills the copier and waits until it is reaped. Every row still waiting is failed."""
        self._closed = True
        self._unwatch()
        self.work.set_busy(False)
        if self._copier is not None:
            copier = self._copier
            copier.kill("released")
            await copier.gone.wait()
        self._fail([*self._sent, *self._loads, *self._saves])
        self._sent.clear()
        self._loads.clear()
        self._saves.clear()

    def _spawn(self) -> None:
        if self._closed or self._copier is not None:
            return
        try:
            copier, lifeline = CopierProcess.spawn(
                self.spec.region,
                self.spec.buffers,
                self.spec.arena_fd,
                self.spec.part,
                self.spec.fence_fd,
                self.spec.lock_fd,
                self.spec.bandwidth,
                self._started,
                self._done,
                self._gone,
            )
        except OSError as error:
            self.crashes += 1
            self._on_crash(f"a copier could not be started: {error}")
            self._loop.call_later(RESPAWN_DELAY_S, self._spawn)
            return
        self._copier = copier

        def sent() -> None:
            self._announced = copier
            self.flush()

        with lifeline:
            self._on_lifeline([lifeline.fileno(), copier.pidfd], sent)
        self.flush()

    def _done(self, rows: list[DoneRow]) -> None:
        answered: list[tuple[Row, DoneRow | None]] = []
        for done in rows:
            row = self._sent.popleft() if self._sent else None
            if row is None or (row.slot, row.page_id) != (done.slot, done.page_id):
                assert self._copier is not None
                if row is not None:
                    self._sent.appendleft(row)
                self._copier.kill(f"it answered for slot {done.slot}, which was not its turn")
                break
            self._count(row, done)
            answered.append((row, done))
        self._account(len(answered))
        if self._sent:
            self._watch()
        else:
            self._unwatch()
            self.work.set_busy(False)
        self._on_rows(answered)
        self.flush()

    def _count(self, row: Row, done: DoneRow) -> None:
        moved = self._part_bytes[row.group] if done.status is Status.OK else 0
        if isinstance(row, SaveRow):
            self._retried.discard(row)
            self.work.saved_bytes += moved
        else:
            self.work.loaded_bytes += moved

    def _account(self, count: int) -> None:
        while count and self._packets:
            taken = min(count, self._packets[0])
            count -= taken
            self._packets[0] -= taken
            if not self._packets[0]:
                self._packets.popleft()

    def _gone(self, reason: str) -> None:
        self._failed_starts = 0 if self.is_ready else self._failed_starts + 1
        self._copier = None
        self._unwatch()
        self.work.set_busy(False)
        again: list[SaveRow] = []
        failed: list[Row] = []
        for row in self._sent:
            if isinstance(row, SaveRow) and row not in self._retried and not self._closed:
                again.append(row)
            else:
                failed.append(row)
        self._retried = set(again)
        self._saves.extendleft(reversed(again))
        self._sent.clear()
        self._packets.clear()
        if not self._closed:
            self.crashes += 1
            log.warning(
                "event=copier_lost rank=%d reason=%r rows_failed=%d", self.spec.region.rank, reason, len(failed)
            )
            steps = max(0, min(self._failed_starts, 16) - QUICK_RESPAWNS)
            slow = min(RESPAWN_DELAY_S * 2**steps, MAX_RESPAWN_DELAY_S)
            delay = 0.0 if self.crashes <= QUICK_RESPAWNS else slow
            self._loop.call_later(delay, self._spawn)
            self._on_crash(reason)
        self._fail(failed)

    def _fail(self, rows: Sequence[Row]) -> None:
        if rows:
            self._on_rows([(row, None) for row in rows])

    def _watch(self) -> None:
        """A copier that answers nothing for this long is stuck, and is killed."""
        self._unwatch()
        timeout_s = self._timeout_s if self.is_ready else START_TIMEOUT_S
        self._timer = self._loop.call_later(timeout_s, self._stuck, timeout_s)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stuck(self, timeout_s: float) -> None:
        if self._copier is not None:
            self._copier.kill(f"it answered nothing for {timeout_s:g} s")

    def _started(self) -> None:
        if self._sent:
            self._watch()
            self.work.set_busy(True)
