"""An engine's life in a keeper that runs in the test, with real copiers whose end the test may put off."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from driving.impostor import IDENTITY, PAGE_TOKENS, Impostor
from driving.process import state
from rekindle.backends import Backends
from rekindle.config import Config
from rekindle.copier.process import CopierProcess
from rekindle.keeper import Keeper
from rekindle.keeper import engine as engine_module
from rekindle.keeper import keeper as keeper_module
from rekindle.keeper.engine import MAX_RESETS, Engine
from rekindle_plugins.contract.journal import ROOT, pack_payload

DEADLINE_S = 30.0


async def until(what: str, probe: Callable[[], object]) -> None:
    """As `driving.until`, on the loop on which the keeper runs."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while not probe():
        assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.002)


@asynccontextmanager
async def attached(tmp_path: Path) -> AsyncIterator[tuple[Keeper, Impostor, Engine]]:
    config = Config(run_dir=tmp_path / "run", store_dir=tmp_path / "store", store_size_bytes=8 << 20)
    keeper = Keeper(config, Backends())
    await keeper.start()
    impostor = await asyncio.to_thread(Impostor, config.run_dir)
    try:
        await asyncio.to_thread(impostor.attach)
        (engine,) = keeper._engines.values()
        await until("its copier to be ready", lambda: lanes(engine) and all(lane.is_ready for lane in lanes(engine)))
        yield keeper, impostor, engine
    finally:
        impostor.close()
        await keeper.stop()


def lanes(engine: Engine) -> list:
    checkpoint = engine._checkpoint
    return list(checkpoint.transfers.lanes) if checkpoint is not None and checkpoint.transfers is not None else []


class LateDeaths:
    """Copiers that are told to go do so when the test says so, as one may that waits for a driver."""

    def __init__(self) -> None:
        self._waiting: list[CopierProcess] = []
        self._is_over = False
        self.kill = lambda copier, reason: self._note(copier, reason)  # a function, so that it becomes a method

    def _note(self, copier: CopierProcess, reason: str) -> None:
        if not copier._reason:
            copier._reason = reason
            self._waiting.append(copier)
            if self._is_over:
                self.let_die()

    def let_die(self) -> None:
        self._is_over = True
        for copier in self._waiting:
            if not copier.gone.is_set():
                signal.pidfd_send_signal(copier._pidfd, signal.SIGKILL)
        self._waiting.clear()


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> Iterator[LateDeaths]:
    late = LateDeaths()
    monkeypatch.setattr(CopierProcess, "kill", late.kill)
    yield late
    late.let_die()


def test_an_engine_that_dies_during_its_reset_is_released_only_when_its_copiers_are_gone(
    tmp_path: Path, deaths: LateDeaths
) -> None:
    async def run() -> None:
        async with attached(tmp_path) as (_, impostor, engine):
            copier = lanes(engine)[0].pid
            generation = impostor.journal.raise_generation()
            identity = IDENTITY.with_field("weight_version", "w")
            impostor.leader.send("reset", identity=dict(identity.fields), generation=generation)
            await until("the reset to wait for the copier", lambda: not lanes(engine))
            impostor.leader.close()
            await until("the death to be noticed", lambda: not engine.is_alive)
            for _ in range(100):
                await asyncio.sleep(0)
            assert not engine._released
            assert state(copier) not in ("Z", "")
            deaths.let_die()
            await until("the release", lambda: engine._released)
            assert state(copier) in ("Z", "")

    asyncio.run(run())


def test_an_engine_is_refused_whatever_goes_wrong_with_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError("the disk is on fire")

    async def run() -> None:
        async with attached(tmp_path) as (keeper, _, engine):
            monkeypatch.setattr(keeper._stores, "acquire", fail)
            second = await asyncio.to_thread(Impostor, tmp_path / "run")
            with pytest.raises(AssertionError, match="the disk is on fire"):
                await asyncio.to_thread(second.attach)
            second.close()
            assert engine.is_alive

    asyncio.run(run())


def test_a_reset_to_an_identity_with_no_room_for_the_layout_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with attached(tmp_path) as (_, impostor, engine):
            fields = {**dict(IDENTITY.fields), **{f"f{number}": "x" for number in range(58)}}
            generation = impostor.journal.raise_generation()
            impostor.leader.send("reset", identity=fields, generation=generation)
            refusal = await asyncio.to_thread(impostor.leader.until_hung_up)
            assert refusal is not None
            assert refusal["code"] == "identity"
            await until("the release", lambda: engine._released)

    asyncio.run(run())


class FullListener:
    """A listener in a process that may not open another descriptor."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.is_full = True
        self.tries = 0

    def fileno(self) -> int:
        return self._listener.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.is_full:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._listener.accept()

    def close(self) -> None:
        self._listener.close()


def test_a_keeper_without_a_free_descriptor_does_not_turn_at_full_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "ACCEPT_PAUSE_S", 0.05)

    async def run() -> None:
        async with attached(tmp_path) as (keeper, _, engine):
            assert keeper._listener is not None
            keeper._listener = listener = FullListener(keeper._listener)  # type: ignore[assignment]
            second = await asyncio.to_thread(Impostor, tmp_path / "run")
            await until("it to have tried", lambda: listener.tries)
            tries = listener.tries
            for _ in range(200):
                await asyncio.sleep(0)
            assert listener.tries <= tries + 1
            listener.is_full = False
            await until("it to accept again", lambda: len(keeper._strangers) == 2)
            assert engine.is_alive
            second.close()

    asyncio.run(run())


@pytest.mark.parametrize("role", ["leader", "rank"])
def test_a_hello_for_whose_descriptors_there_is_no_room_is_refused_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    really_dup = os.dup
    left = {"leader": 1, "rank": 2}[role]

    def dup_until_full(fd: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return really_dup(fd)

    async def run() -> None:
        async with attached(tmp_path) as (keeper, _, engine):
            second = await asyncio.to_thread(Impostor, tmp_path / "run")
            await until("its connections to be accepted", lambda: len(keeper._strangers) == 2)
            before = len(os.listdir("/proc/self/fd"))
            region = second.region().to_json() | {"sizes": [4096 * 8] * 3}
            monkeypatch.setattr(os, "dup", dup_until_full)
            if role == "rank":
                second.rank.send("hello", [second.memory] * 3, **second.rank_hello() | {"region": region})
            else:
                second.leader.send("hello", second.leader_fds, **second.leader_hello())
            wire = second.rank if role == "rank" else second.leader
            refusal = await asyncio.to_thread(wire.until_hung_up)
            monkeypatch.undo()
            assert refusal is not None
            assert "Too many open files" in refusal["message"]
            await until("its descriptors to be closed", lambda: len(os.listdir("/proc/self/fd")) < before)
            assert engine.is_alive
            second.close()

    asyncio.run(run())


def test_more_resets_than_anybody_needs_are_refused(tmp_path: Path, deaths: LateDeaths) -> None:
    async def run() -> None:
        async with attached(tmp_path) as (_, impostor, engine):
            for number in range(MAX_RESETS + 1):
                generation = impostor.journal.raise_generation()
                identity = IDENTITY.with_field("weight_version", f"{number}")
                reset = partial(impostor.leader.send, identity=dict(identity.fields), generation=generation)
                await asyncio.to_thread(reset, "reset")
            refusal = await asyncio.to_thread(impostor.leader.until_hung_up)
            assert refusal is not None
            assert "64 are not answered" in refusal["message"]
            deaths.let_die()
            await until("the release", lambda: engine._released)
            await until("them all to have been seen through", lambda: engine._resets == 0)

    asyncio.run(run())


def test_a_dead_engines_pages_are_planned_while_its_copier_has_not_died_yet(tmp_path: Path, deaths: LateDeaths) -> None:
    async def run() -> None:
        async with attached(tmp_path) as (_, impostor, engine):
            impostor.journal.append(pack_payload(0, 0, 0, 0, b"k" * 32, ROOT, (1,) * PAGE_TOKENS))
            os.eventfd_write(impostor.wake, 1)
            await until("its page to be copied", lambda: engine.tally.checkpointed == 1)
            impostor.leader.close()
            await until("the death to be noticed", lambda: not engine.is_alive)
            second = await asyncio.to_thread(Impostor, tmp_path / "run")
            welcome = await asyncio.to_thread(second.attach)
            assert welcome["stored_pages"] == 1
            second.leader.send("plan", plan_id=1, max_pages=8)
            answer = await asyncio.to_thread(second.leader.answer)
            while answer is not None and answer["type"] != "pages":
                answer = await asyncio.to_thread(second.leader.answer)
            assert answer is not None
            assert [row[0] for row in answer["pages"]] == [(b"k" * 32).hex()]
            assert not engine._released
            second.close()
            deaths.let_die()
            await until("the release", lambda: engine._released)

    asyncio.run(run())


def test_a_copier_that_does_not_die_does_not_keep_the_sidecar_from_stopping(
    tmp_path: Path, deaths: LateDeaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STOP_LIMIT_S", 0.1)

    async def run() -> None:
        async with attached(tmp_path) as (keeper, _, engine):
            copier = lanes(engine)[0].pid
            await asyncio.wait_for(keeper.stop(), DEADLINE_S)
            assert not engine._released
            assert state(copier) not in ("Z", "")
            deaths.let_die()
            await until("the copier's end", lambda: state(copier) in ("Z", ""))

    asyncio.run(run())
