"""A lane with copiers that are played by the test: every row is answered once, whatever its copiers do."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle.copier.memory import ArenaPart
from rekindle.copier.protocol import (
    NO_CHECKSUM,
    DoneRow,
    LoadRow,
    Operation,
    SaveRow,
    Status,
    operation_of,
    unpack_loads,
    unpack_saves,
)
from rekindle.keeper import lane as lane_module
from rekindle.keeper.lane import Lane, LaneSpec, Row
from rekindle.keeper.tally import CopierWork
from rekindle_plugins.contract import GroupGeometry, Region, Run

REGION = Region(0, "shm", 64, (64 * 64,), (GroupGeometry(4, (Run(0, 0, 64, 64),)),))
SPEC = LaneSpec(REGION, (), -1, ArenaPart(0, 64, 64, 64), -1, -1)


class FakeCopier:
    """Takes packets; answers, refuses or dies when the test says so."""

    def __init__(self, on_done: Callable[[list[DoneRow]], None], on_gone: Callable[[str], None]) -> None:
        self.pid = 1
        self.pidfd = -1
        self.is_ready = True
        self.gone = asyncio.Event()
        self.rows: list[Row] = []
        self.reason = ""
        self._on_done, self._on_gone = on_done, on_gone

    def send(self, packet: bytes) -> bool:
        is_save = operation_of(packet) is Operation.SAVE
        self.rows.extend(unpack_saves(packet) if is_save else unpack_loads(packet))
        return not self.reason

    def answer(self, count: int, status: Status = Status.OK) -> None:
        taken, self.rows = self.rows[:count], self.rows[count:]
        self._on_done([DoneRow(row.slot, row.page_id, status, NO_CHECKSUM) for row in taken])

    def kill(self, reason: str) -> None:
        """The end is noticed later, when the process is reaped."""
        if not self.reason:
            self.reason = reason
            asyncio.get_running_loop().call_soon(self.reap)

    def reap(self) -> None:
        self.reason = self.reason or "it died"
        if not self.gone.is_set():
            self.gone.set()
            self._on_gone(self.reason)


class Scene:
    """One lane, its copiers in order, and the rows it has answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, announce_at_once: bool = True, spec: LaneSpec = SPEC) -> None:
        self.copiers: list[FakeCopier] = []
        self.to_announce: list[Callable[[], None]] = []
        self.answers: list[tuple[Row, DoneRow | None]] = []
        self.crashes: list[str] = []
        self.work = CopierWork()
        self._at_once = announce_at_once
        monkeypatch.setattr(lane_module, "QUICK_RESPAWNS", 1 << 30)
        monkeypatch.setattr(lane_module.CopierProcess, "spawn", self._spawn)
        self.lane = Lane(spec, 60.0, self.answers.extend, self._lifeline, self.crashes.append, self.work)

    def _spawn(self, *args: Any) -> tuple[FakeCopier, socket.socket]:
        self.copiers.append(FakeCopier(*args[-2:]))
        ours, theirs = socket.socketpair()
        theirs.close()
        return self.copiers[-1], ours

    def _lifeline(self, _: list[int], sent: Callable[[], None]) -> None:
        if self._at_once:
            sent()
        else:
            self.to_announce.append(sent)

    @property
    def copier(self) -> FakeCopier:
        return self.copiers[-1]

    async def next_copier(self) -> FakeCopier:
        count = len(self.copiers)
        self.copier.reap()
        while len(self.copiers) == count:
            await asyncio.sleep(0)
        return self.copier

    @property
    def outcomes(self) -> list[tuple[int, bool]]:
        return [(row.slot, done is not None) for row, done in self.answers]


def save(slot: int) -> SaveRow:
    return SaveRow(slot, slot, 0, 1)


def load(slot: int) -> LoadRow:
    return LoadRow(slot, slot, 0, 1, NO_CHECKSUM)


def test_no_load_is_sent_before_the_shim_has_the_copiers_lifeline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        scene = Scene(monkeypatch, announce_at_once=False)
        scene.lane.load([load(1)])
        scene.lane.save(save(2))
        scene.lane.flush()
        assert scene.copier.rows == [save(2)], "a save needs nobody's leave"
        scene.to_announce[0]()
        assert scene.copier.rows == [save(2), load(1)]
        copier = await scene.next_copier()
        scene.lane.load([load(3)])
        scene.to_announce[0]()
        assert copier.rows == [save(2)], "the first copier's lifeline says nothing of the second"
        scene.to_announce[1]()
        assert copier.rows == [save(2), load(3)]
        await scene.lane.close()

    asyncio.run(main())


def test_loads_go_before_saves_and_a_window_bounds_what_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        scene = Scene(monkeypatch)
        for slot in range(300):
            scene.lane.save(save(slot))
        scene.lane.flush()
        window = lane_module.PACKETS_IN_FLIGHT * lane_module.ROWS_PER_PACKET
        assert len(scene.copier.rows) == window
        scene.lane.load([load(400)])
        scene.copier.answer(lane_module.ROWS_PER_PACKET)
        assert scene.copier.rows[-1] == load(400)
        assert len(scene.copier.rows) <= window
        await scene.lane.close()
        assert len(scene.answers) == 301

    asyncio.run(main())


def test_under_a_cap_a_load_waits_for_few_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        page = ArenaPart(0, 1 << 20, 1 << 20, 64)
        scene = Scene(monkeypatch, spec=replace(SPEC, part=page, bandwidth=200 << 20))
        for slot in range(60):
            scene.lane.save(save(slot))
        scene.lane.flush()
        assert scene.copier.rows == [save(slot) for slot in range(4)], "two packets of 10 ms each"
        scene.lane.load([load(9)])
        scene.copier.answer(2)
        assert scene.copier.rows == [save(2), save(3), load(9)]
        await scene.lane.close()

    asyncio.run(main())


def test_a_dead_copiers_saves_are_tried_once_more_and_its_loads_are_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        scene = Scene(monkeypatch)
        scene.lane.save(save(1))
        scene.lane.load([load(2)])
        scene.lane.flush()
        copier = await scene.next_copier()
        assert scene.outcomes == [(2, False)]
        assert copier.rows == [save(1)]
        await scene.next_copier()
        assert scene.outcomes == [(2, False), (1, False)]
        assert len(scene.crashes) == 2
        await scene.lane.close()

    asyncio.run(main())


def test_an_answer_out_of_turn_ends_the_copier_and_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        scene = Scene(monkeypatch)
        scene.lane.load([load(1), load(2)])
        scene.lane.flush()
        copier = scene.copier
        copier.rows.reverse()
        copier.answer(1)
        assert "not its turn" in copier.reason
        assert scene.answers == []
        await asyncio.wait_for(copier.gone.wait(), 10)
        assert scene.outcomes == [(1, False), (2, False)]
        await scene.lane.close()

    asyncio.run(main())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32))
def test_every_row_is_answered_exactly_once_whatever_the_copiers_do(seed: int) -> None:
    print(f"seed {seed}")
    source = random.Random(seed)

    async def main(monkeypatch: pytest.MonkeyPatch) -> None:
        scene = Scene(monkeypatch, announce_at_once=source.random() < 0.5)
        given: list[Row] = []
        for slot in range(60):
            row = save(slot) if source.random() < 0.5 else load(slot)
            given.append(row)
            if isinstance(row, SaveRow):
                scene.lane.save(row)
            else:
                scene.lane.load([row])
            if source.random() < 0.5:
                scene.lane.flush()
            if source.random() < 0.3:
                scene.copier.answer(source.randrange(5))
            if source.random() < 0.2 and scene.to_announce:
                scene.to_announce.pop()()
            if source.random() < 0.1:
                await scene.next_copier()
        await scene.lane.close()
        assert sorted(row.slot for row, _ in scene.answers) == sorted(row.slot for row in given)
        assert scene.lane.pending == 0

    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(main(monkeypatch))
