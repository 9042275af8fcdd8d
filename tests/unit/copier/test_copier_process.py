"""A real copier process over its real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from copier_samples import PAGES, SLOTS, Place, filled
from rekindle.copier.memory import ArenaPart
from rekindle.copier.process import CopierProcess
from rekindle.copier.protocol import DoneRow, LoadRow, SaveRow, Status, pack_loads, pack_saves
from rekindle_plugins.contract import Fence, GroupGeometry, Region, Run

DEADLINE_S = 20.0


class Harness:
    """A copier with everything it told."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.rows: list[DoneRow] = []
        self.gone: list[str] = []
        self.was_reaped: bool | None = None
        self._changed = asyncio.Event()
        self._lock = os.open("/dev/null", os.O_RDONLY)
        self.copier, self.lifeline = CopierProcess.spawn(
            place.region,
            place.buffers,
            place.arena,
            place.part,
            place.fence.fd,
            self._lock,
            0,
            on_ready=self._changed.set,
            on_done=self._done,
            on_gone=self._gone,
        )

    def _done(self, rows: list[DoneRow]) -> None:
        self.rows.extend(rows)
        self._changed.set()

    def _gone(self, reason: str) -> None:
        self.gone.append(reason)
        self.was_reaped = not Path(f"/proc/{self.copier.pid}").exists()
        self._changed.set()

    async def until(self, probe: Callable[[], object]) -> None:
        while not probe():
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), DEADLINE_S)

    async def close(self) -> None:
        self.copier.kill("the test is over")
        await self.until(lambda: self.gone)
        self.lifeline.close()
        os.close(self._lock)
        self.place.close()


def run(scenario: Callable[[Harness], Awaitable[None]]) -> None:
    async def main() -> None:
        harness = Harness(Place.of("strided layers"))
        try:
            await scenario(harness)
        finally:
            await harness.close()

    asyncio.run(main())


def test_a_copier_saves_and_loads_and_answers_every_row_in_order() -> None:
    async def scenario(harness: Harness) -> None:
        place = harness.place
        page = place.page(2, 0)
        assert not harness.copier.is_ready
        await harness.until(lambda: harness.copier.is_ready)
        assert harness.copier.send(pack_saves([SaveRow(1, 2, 0, 0), SaveRow(0, 3, 0, 9), SaveRow(2, 99, 0, 0)]))
        await harness.until(lambda: len(harness.rows) == 3)
        assert [row.status for row in harness.rows] == [Status.OK, Status.FENCE_MOVED, Status.OUT_OF_RANGE]
        assert place.slot(1, 0) == page
        loads = [LoadRow(1, page_id % 5, 0, 0, harness.rows[0].checksum) for page_id in range(40)]
        assert harness.copier.send(pack_loads(loads))
        await harness.until(lambda: len(harness.rows) == 43)
        assert [row.page_id for row in harness.rows[3:]] == [load.page_id for load in loads]
        assert all(row.status is Status.OK for row in harness.rows[3:])
        assert [place.page(page_id, 0) for page_id in range(5)] == [page] * 5
        # Asked to go, by the shim's byte on the lifeline.
        harness.lifeline.send(b"x")
        await harness.until(lambda: harness.gone)
        assert harness.gone == ["it ended with 0"]
        assert harness.was_reaped
        assert harness.lifeline.recv(1) == b"", "the end of the lifeline is the proof that it is gone"
        assert not harness.copier.send(pack_saves([]))

    run(scenario)


def test_the_engines_end_does_not_end_its_copier_and_a_kill_in_a_packet_is_told_after_the_reaping() -> None:
    async def scenario(harness: Harness) -> None:
        harness.lifeline.shutdown(socket.SHUT_RDWR)
        assert harness.copier.send(pack_saves([SaveRow(0, 0, 0, 0)]))
        await harness.until(lambda: harness.rows)
        assert harness.rows[0].status is Status.OK
        os.kill(harness.copier.pid, signal.SIGSTOP)
        checksum = harness.rows[0].checksum
        assert harness.copier.send(pack_loads([LoadRow(0, 1, 0, 0, checksum)] * 200))
        assert not harness.gone
        harness.copier.kill("it is stuck")
        harness.copier.kill("once is enough")
        assert not harness.copier.send(pack_saves([]))
        await harness.until(lambda: harness.gone)
        assert harness.gone == ["it is stuck"]
        assert harness.was_reaped
        assert len(harness.rows) < 201

    run(scenario)


PARENT = """
import asyncio, os, sys
sys.path[:0] = {path!r}
from copier_samples import Place
from test_copier_process import Harness
from rekindle.copier.protocol import SaveRow, pack_saves

async def main():
    harness = Harness(Place.of("one run"))
    harness.copier.send(pack_saves([SaveRow(0, 0, 0, 0)]))
    await harness.until(lambda: harness.rows)
    print(harness.copier.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_copier_dies_with_its_keeper() -> None:
    script = PARENT.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[2])])
    keeper = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert keeper.stdout is not None
        pidfd = os.pidfd_open(int(keeper.stdout.readline()))
    finally:
        keeper.kill()
        keeper.wait()
        assert keeper.stdout is not None
        keeper.stdout.close()
    try:
        assert select.select([pidfd], [], [], DEADLINE_S)[0], "the copier outlived its keeper"
    finally:
        os.close(pidfd)


def test_a_copier_that_cannot_map_its_memory_is_gone_at_once() -> None:
    async def main() -> None:
        place = Place.of("one run")
        too_small = os.memfd_create("too small")
        place.buffers, buffers = [too_small], place.buffers
        harness = Harness(place)
        await harness.until(lambda: harness.gone)
        assert harness.gone == ["it ended with 1"]
        assert harness.was_reaped
        harness.copier.kill("its descriptor may be another's by now")
        await harness.close()
        os.close(buffers[0])

    asyncio.run(main())


@pytest.mark.parametrize("times", [3])
def test_copiers_leave_no_descriptor_behind(times: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(times):

        async def scenario(harness: Harness) -> None:
            harness.copier.kill("at once")

        run(scenario)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_region_of_very_many_runs_reaches_its_copier() -> None:
    """An argument of a process may have 128 KiB."""
    count, segment = 2000, 16
    runs = tuple(Run(0, number * PAGES * segment, segment, segment) for number in range(count))
    region = Region(0, "shm", PAGES, (count * PAGES * segment,), (GroupGeometry(4, runs),))
    assert len(json.dumps(region.to_json())) > 128 << 10
    part = ArenaPart(0, region.part_bytes, region.part_bytes, SLOTS)
    memory = filled(os.urandom(region.sizes[0]))
    place = Place(region, part, [memory], filled(bytes(SLOTS * part.stride)), Fence.create(PAGES))

    async def main() -> None:
        harness = Harness(place)
        assert harness.copier.send(pack_saves([SaveRow(1, 2, 0, 0)]))
        await harness.until(lambda: harness.rows or harness.gone)
        assert [row.status for row in harness.rows] == [Status.OK]
        assert place.slot(1, 0) == place.page(2, 0)
        await harness.close()

    asyncio.run(main())
