"""What a shim's client does when things go wrong in an awkward order."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from rekindle.store.presence import PresenceFilter
from rekindle_plugins.client import FillPage, FillResult, Leader, LeaderConfig
from rekindle_plugins.client import leader as leader_module
from rekindle_plugins.client.link import Link
from rekindle_plugins.contract import Identity, Message, PluginInfo
from rekindle_plugins.contract.identity import REQUIRED
from rekindle_plugins.contract.plugin import Stage
from rekindle_plugins.nano.shim import NanoShim

log = logging.getLogger("test")
PAGES = 8
PLUGIN = PluginInfo("test", "1", "no engine")


def identity(version: str = "0") -> Identity:
    return Identity.of(dict.fromkeys(REQUIRED, version))


def make_leader(tmp_path: Path) -> Leader:
    """Not started: the test stands for both of its threads."""
    path = str(tmp_path / "attach.sock")
    return Leader(LeaderConfig(path, "engine-1", PLUGIN, "1", identity(), PAGES, (4,), 1, journal_records=16), log)


class Connection:
    """A connection on which `messages` have arrived already."""

    def __init__(self, *messages: Message, events: list[str] | None = None) -> None:
        self.messages = list(messages)
        self.events = events if events is not None else []

    def receive(self) -> Message | None:
        self.events.append("received")
        return self.messages.pop(0) if self.messages else None

    def send(self, type_: str, **fields: Any) -> None:
        self.events.append(type_)

    def close(self) -> None:
        self.events.append("closed")


def connect(leader: Leader, connection: Connection) -> None:
    leader.link._channel = connection  # type: ignore[assignment]
    leader.link.linked.set()


def test_a_link_retries_also_where_its_descriptors_have_high_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """select(2) knows 1,024 of them, and an engine has more."""
    crashes: list[object] = []
    monkeypatch.setattr(threading, "excepthook", crashes.append)
    link = Link(str(tmp_path / "nobody"), "test", lambda: ({}, ()), lambda _: None, lambda: None, lambda: None, log)
    link._wake_r = fcntl.fcntl(link._wake_r, fcntl.F_DUPFD_CLOEXEC, 1500)
    link.start()
    assert link.settled.wait(10)
    link.close(10)
    assert not link._thread.is_alive()
    assert not crashes


def test_what_has_arrived_is_taken_after_the_epochs_of_a_lost_fill_were_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copier that is announced between the last look and the raise could still write, and nobody would know of it."""
    leader = make_leader(tmp_path)
    events: list[str] = []
    connect(leader, Connection(events=events))
    raise_pages = leader.fence.raise_pages
    monkeypatch.setattr(leader.fence, "raise_pages", lambda pages: (events.append("raised"), raise_pages(pages)))
    leader.fill([FillPage(3, 0, 0, bytes(32))])
    leader.link._detach()
    assert "received" in events[events.index("raised") :]


@pytest.mark.parametrize("type_", ["refuse", "report"])
def test_an_unexpected_last_message_does_not_end_the_links_thread(tmp_path: Path, type_: str) -> None:
    leader = make_leader(tmp_path)
    connection = Connection(Message(type_, {"code": "x", "message": "y", "hint": ""}))
    connect(leader, connection)
    leader.fill([FillPage(3, 0, 0, bytes(32))])
    leader.link._detach()
    assert connection.events[-1] == "closed"
    assert len(leader.fills.poll()) == 1


@pytest.mark.parametrize("answered", ["before the reset", "after the reset"])
def test_a_page_filled_across_a_reset_is_not_used(tmp_path: Path, answered: str) -> None:
    """It was asked for under the old weights. The engine must not take it into its fresh cache."""
    leader = make_leader(tmp_path)
    connect(leader, Connection())
    fill_id = leader.fill([FillPage(3, leader.epoch(3), 0, bytes(32))])
    if answered == "before the reset":
        leader.fills.settle(fill_id, [(3, "")])
    leader.reset(identity("1"))
    if answered == "after the reset":
        leader.fills.settle(fill_id, [(3, "")])
    (result,) = leader.fills.poll()
    assert result.ok == ()
    assert len(result.failed) == 1


def test_a_request_that_waits_for_a_load_goes_on_when_the_shim_turns_itself_off(tmp_path: Path) -> None:
    shim = NanoShim(str(tmp_path))
    shim._report = lambda request_id, pages: (request_id, pages)  # type: ignore[assignment,return-value]
    shim._leader = make_leader(tmp_path)
    connect(shim._leader, Connection())
    page = FillPage(3, 0, 0, bytes(32))
    shim.load("r1", [page])  # type: ignore[list-item]
    shim.guard.trip("something else")
    shim._leader.link._detach()
    assert list(shim.poll_loads()) == [("r1", 0)]


@pytest.mark.parametrize("made", [(), ("_rank",), ("_rank", "_leader")])
def test_a_shim_whose_attach_failed_on_the_way_can_be_finalized(tmp_path: Path, made: tuple[str, ...]) -> None:
    shim = NanoShim(str(tmp_path))
    shim.stages.enter(Stage.INITIALIZED)
    shim.stages.enter(Stage.ATTACHED)
    halves = {name: make_leader(tmp_path) for name in made}
    for name, half in halves.items():
        setattr(shim, name, half)
    shim.finalize()
    assert all(half.link._closing for half in halves.values())
    shim.finalize()


def test_a_fill_of_no_pages_ends_at_once(tmp_path: Path) -> None:
    leader = make_leader(tmp_path)
    connect(leader, Connection())
    fill_id = leader.fill([])
    assert leader.fills.poll() == [FillResult(fill_id, (), ())]


def test_live_pages_are_announced_in_parts_that_the_journal_holds(tmp_path: Path) -> None:
    """Announcing must not overflow the ring by itself: the lost ones would be announced again, for ever."""
    leader = make_leader(tmp_path)
    for page_id in range(PAGES):
        leader.commit(page_id, 0, 0, bytes([page_id + 1] * 32), bytes(32), (1, 2, 3, 4))
    capacity = leader._journal.capacity = 4
    leader._announce_all()
    leader._announce_some()
    assert 0 < leader._journal.backlog <= capacity // 2
    assert len(leader._to_announce) == PAGES - leader._journal.backlog


def welcome(presence: PresenceFilter) -> Message:
    return Message("welcome", {"state": "x", "stored_pages": 1, "restore_budget_s": 1}, (os.dup(presence.fd),))


@pytest.mark.parametrize("told", [True, False])
def test_a_reset_while_a_welcome_is_being_read_leaves_no_hint_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """`told`: whether the sidecar takes the reset; else the connection is made anew."""
    leader = make_leader(tmp_path)
    old, new = PresenceFilter(64), PresenceFilter(64)
    key = b"k" * 32
    old.page_added(key, 0)
    leader._hello()
    connect(leader, Connection())
    open_presence = leader_module.Presence

    def open_and_reset(fd: int) -> object:
        presence = open_presence(fd)
        if not told:
            leader.link._channel = None
        leader.reset(identity("1"))
        return presence

    monkeypatch.setattr(leader_module, "Presence", open_and_reset)
    leader._on_message(welcome(old))
    assert not leader.has(key)
    monkeypatch.undo()
    if not told:
        leader._hello()
    leader._on_message(welcome(new))
    assert not leader.has(key)
    new.page_added(key, 0)
    assert leader.has(key)
    old.close()
    new.close()
