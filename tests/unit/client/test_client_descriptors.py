"""The engine's process is left with no descriptor that nobody uses, whatever the sidecar sends."""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from driving import until
from rekindle.store.presence import PresenceFilter
from rekindle_plugins.client import Leader, LeaderConfig, Rank, RankConfig
from rekindle_plugins.contract import GroupGeometry, Identity, PluginInfo, Region, Run
from rekindle_plugins.contract.identity import REQUIRED
from rekindle_plugins.contract.sharedmem import create_sealed
from rekindle_plugins.contract.wire import Channel

PLUGIN = PluginInfo("test", "1", "no engine")
PAGES, PAGE_BYTES = 8, 4096
log = logging.getLogger("test")


def open_count() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def make_leader(path: str) -> Leader:
    return Leader(
        LeaderConfig(path, "engine-1", PLUGIN, "1", Identity.of(dict.fromkeys(REQUIRED, "x")), 8, (4,), 1), log
    )


def make_rank(path: str, memory: int) -> Rank:
    group = GroupGeometry(4, (Run(0, 0, PAGE_BYTES, PAGE_BYTES),))
    region = Region(0, "shm", PAGES, (PAGES * PAGE_BYTES,), (group,))
    return Rank(RankConfig(path, "engine-1", PLUGIN, "1", 1), region, (memory,), log)


class Sidecar:
    """Takes one connection, and says what the test wants it to."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self._listener.settimeout(20)
        self._presence = PresenceFilter(64)
        self.channel: Channel | None = None

    def welcome(self, fds: int = 1) -> Channel:
        sock, _ = self._listener.accept()
        sock.settimeout(20)
        self.channel = Channel(sock)
        hello = self.channel.receive()
        assert hello is not None
        hello.close_fds()
        fields = {"state": "attached", "stored_pages": 1, "restore_budget_s": 1}
        self.channel.send("welcome", [self._presence.fd] * fds, **fields)
        return self.channel

    def close(self) -> None:
        self._listener.close()
        self._presence.close()
        if self.channel is not None:
            self.channel.close()


@contextmanager
def sidecar(tmp_path: Path) -> Iterator[tuple[Sidecar, str]]:
    path = tmp_path / "attach.sock"
    found = Sidecar(path)
    try:
        yield found, str(path)
    finally:
        found.close()


def test_a_leader_and_a_rank_that_were_closed_hold_nothing(tmp_path: Path) -> None:
    memory = create_sealed("kv", PAGES * PAGE_BYTES)
    before = open_count()
    for _ in range(3):
        leader, rank = make_leader(str(tmp_path / "nobody")), make_rank(str(tmp_path / "nobody"), memory)
        leader.start()
        rank.start()
        leader.close()
        rank.close()
        leader.raise_pages([1])  # an engine that goes on is not harmed
        leader.end_step(0)
        leader.close()
        del leader, rank
    assert open_count() == before
    os.close(memory)


@pytest.mark.parametrize("type_", ["announce", "filled", "pages", "refuse"])
def test_descriptors_that_nobody_asked_for_are_closed(tmp_path: Path, type_: str) -> None:
    fields = {
        "announce": {"lost": 0},
        "filled": {"fill_id": 1, "pages": []},
        "refuse": dict.fromkeys(("code", "message", "hint"), ""),
    }
    with sidecar(tmp_path) as (other, path), open(os.devnull) as nothing:
        leader = make_leader(path)
        leader.start()
        channel = other.welcome()
        until("the leader to be linked", lambda: leader.linked)
        before = open_count()
        plan = {"plan_id": 1, "pages": [], "last": True}
        channel.send(type_, [nothing.fileno()] * 50, **fields.get(type_, plan))
        until("them to be gone", lambda: not leader.linked)
        channel.close()
        until("no descriptor to be left", lambda: open_count() <= before - len(("connection", "its end", "presence")))
        leader.close()


def test_a_refusals_descriptors_are_closed(tmp_path: Path) -> None:
    with sidecar(tmp_path) as (other, path), open(os.devnull) as nothing:
        leader = make_leader(path)
        before = open_count()
        leader.start()
        sock, _ = other._listener.accept()
        sock.settimeout(20)
        with sock:
            hello = Channel(sock).receive()
            assert hello is not None
            hello.close_fds()
            Channel(sock).send("refuse", [nothing.fileno()] * 50, code="x", message="y", hint="")
        assert leader.link.settled.wait(20)
        until("no descriptor to be left", lambda: open_count() <= before)
        leader.close()


def test_a_ranks_welcome_brings_it_nothing(tmp_path: Path) -> None:
    memory = create_sealed("kv", PAGES * PAGE_BYTES)
    with sidecar(tmp_path) as (other, path):
        rank = make_rank(path, memory)
        before = open_count()
        rank.start()
        other.welcome(fds=50)
        until("the rank to be linked", lambda: rank.link.settled.is_set())
        until("no descriptor to be left", lambda: open_count() <= before + 2)  # the connection's two ends
        rank.close()
    os.close(memory)


def test_a_lifeline_that_is_no_socket_is_closed_with_its_pidfd(tmp_path: Path) -> None:
    with sidecar(tmp_path) as (other, path), open(os.devnull) as nothing:
        leader = make_leader(path)
        leader.start()
        channel = other.welcome()
        until("the leader to be linked", lambda: leader.linked)
        before = open_count()
        channel.send("copier", [nothing.fileno()] * 2, rank=0)
        until("it to be refused", lambda: not leader.linked)
        channel.close()
        until("no descriptor to be left", lambda: open_count() <= before - len(("connection", "its end", "presence")))
        leader.close()
