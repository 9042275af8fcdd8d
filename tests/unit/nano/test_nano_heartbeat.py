"""The heartbeat that a shim leaves in the journal: there is no instant at which work could hang unseen."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from nano_driving import PAGE_TOKENS, prompt, request, small_engine
from nano_engine.blocks import PageId
from nano_engine.engine import Engine
from rekindle_plugins.client import Leader, LeaderConfig
from rekindle_plugins.contract import Identity, JournalReader, PluginInfo
from rekindle_plugins.contract.identity import REQUIRED
from rekindle_plugins.contract.journal import Heartbeat
from rekindle_plugins.nano.shim import NanoShim

PAGES = 8


@pytest.fixture
def leader(tmp_path: Path) -> Leader:
    """Not started: nobody is told of it but by the journal."""
    identity = Identity.of(dict.fromkeys(REQUIRED, "0"))
    path = str(tmp_path / "attach.sock")
    plugin = PluginInfo("test", "1", "no engine")
    return Leader(LeaderConfig(path, "engine", plugin, "1", identity, PAGES, (4,), 1), logging.getLogger("test"))


class Keeper:
    """What the keeper sees."""

    def __init__(self, leader: Leader, pages: int, page_tokens: int) -> None:
        self._reader = JournalReader(leader._journal.fd, pages, (page_tokens,))
        self._wake = leader._wake

    @property
    def beat(self) -> Heartbeat:
        return self._reader.heartbeat()

    def rings(self) -> int:
        try:
            return os.eventfd_read(self._wake)
        except BlockingIOError:
            return 0


def test_a_step_is_under_way_from_before_its_dispatch_to_its_end(leader: Leader) -> None:
    keeper = Keeper(leader, PAGES, 4)
    assert not keeper.beat.has_work
    leader.begin_step(2)
    assert keeper.beat.has_work
    assert (keeper.beat.steps_started, keeper.beat.steps_finished, keeper.beat.outstanding) == (1, 0, 2)
    leader.end_step(0)
    assert not keeper.beat.has_work


def test_with_asynchronous_scheduling_the_steps_that_are_still_out_count(leader: Leader) -> None:
    keeper = Keeper(leader, PAGES, 4)
    leader.begin_step(1)
    leader.begin_step(1)
    leader.end_step(0, under_way=1)
    assert (keeper.beat.steps_started, keeper.beat.steps_finished) == (2, 1)
    assert keeper.beat.has_work
    leader.end_step(0)
    assert (keeper.beat.steps_started, keeper.beat.steps_finished) == (2, 2)


def test_requests_that_wait_are_work_until_the_engine_says_that_there_is_none(leader: Leader) -> None:
    keeper = Keeper(leader, PAGES, 4)
    leader.tell_outstanding(3)
    assert keeper.beat.has_work
    leader.tell_outstanding(0)
    assert not keeper.beat.has_work


def test_the_keeper_is_rung_once_for_each_stretch_of_work(leader: Leader) -> None:
    keeper = Keeper(leader, PAGES, 4)
    for _ in range(3):
        leader.tell_outstanding(1)
        for left in (1, 1, 0):
            leader.begin_step(1)
            leader.end_step(left)
        assert keeper.rings() == 1
    assert keeper.rings() == 0


class Watched(NanoShim):
    """A shim that has not attached, and notes the heartbeat in the middle of the engine's steps."""

    def __init__(self, leader: Leader, pages: int) -> None:
        super().__init__("nowhere")
        self._leader = leader
        self.keeper = Keeper(leader, pages, PAGE_TOKENS)
        self.within: list[Heartbeat] = []

    def ready(self, *_: object) -> None:
        return

    def pages_allocated(self, page_ids: list[PageId]) -> None:  # type: ignore[override]
        self.within.append(self.keeper.beat)
        super().pages_allocated(page_ids)

    def page_complete(self, *page: object) -> None:  # type: ignore[override]
        self.within.append(self.keeper.beat)
        super().page_complete(*page)  # type: ignore[arg-type]


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Engine, Watched]:
    identity = Identity.of(dict.fromkeys(REQUIRED, "0"))
    path = str(tmp_path / "attach.sock")
    plugin = PluginInfo("test", "1", "no engine")
    config = LeaderConfig(path, "engine", plugin, "1", identity, 64, (PAGE_TOKENS,), 1)
    shim = Watched(Leader(config, logging.getLogger("test")), 64)
    return small_engine(hooks=shim), shim


def test_the_nano_engine_is_seen_at_work_in_the_middle_of_its_very_first_step(
    watched: tuple[Engine, Watched],
) -> None:
    engine, shim = watched
    engine.step()
    assert not shim.keeper.beat.has_work
    engine.submit(request(prompt(2 * PAGE_TOKENS), 3))
    engine.step()
    assert [beat.outstanding for beat in shim.within] == [1, 1, 1], "two pages were complete"
    assert {beat.steps_started - beat.steps_finished for beat in shim.within} == {1}
    assert shim.guard.failures == 0


def test_the_nano_engine_is_seen_to_be_idle_after_its_last_step(watched: tuple[Engine, Watched]) -> None:
    engine, shim = watched
    engine.submit(request(prompt(2 * PAGE_TOKENS), 3))
    while engine.has_requests:
        assert shim.keeper.beat.steps_started == shim.keeper.beat.steps_finished
        engine.step()
    assert not shim.keeper.beat.has_work
    assert shim.keeper.rings() >= 1
    engine.step()
    assert shim.keeper.rings() == 0, "an idle engine rings nobody"
