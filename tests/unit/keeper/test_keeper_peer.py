"""One attach connection on the loop: who hears of a message, and what is left of it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rekindle.keeper.peer import Peer


class Scene:
    def __init__(self) -> None:
        ours, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.closed: list[str] = []
        self.sent = 0
        self.peer = Peer(ours, 1, lambda _, __: None, lambda _, reason: self.closed.append(reason), lambda _: None)

    def send(self, *fds: int) -> None:
        self.peer.send("announce", fds, then=self._sent, lost=0)

    def _sent(self) -> None:
        self.sent += 1

    def fill(self) -> None:
        """Sends until something waits for the other side to read."""
        while not self.peer.queued:
            self.send()


@contextmanager
def scene() -> Iterator[Scene]:
    found = Scene()
    yield found
    found.peer.close("the test is over")
    found.other.close()


def test_nobody_is_told_that_a_message_went_to_a_peer_that_is_gone() -> None:
    async def run() -> None:
        with scene() as s:
            s.send()
            assert s.sent == 1
            s.other.close()
            s.send()
            assert s.sent == 1

    asyncio.run(run())


def test_a_message_that_waited_is_not_sent_to_a_peer_that_is_gone() -> None:
    async def run() -> None:
        with scene() as s:
            s.fill()
            sent = s.sent
            s.other.close()
            s.peer._writable()
            assert s.sent == sent

    asyncio.run(run())


def test_a_peer_whose_message_cannot_be_kept_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        with scene() as s, open(os.devnull) as nothing:
            s.fill()
            before = len(os.listdir("/proc/self/fd"))
            really_dup, left = os.dup, iter([True])

            def dup_once(fd: int) -> int:
                if next(left, False):
                    return really_dup(fd)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

            monkeypatch.setattr(os, "dup", dup_once)
            s.send(nothing.fileno(), nothing.fileno())
            monkeypatch.undo()
            assert [reason[:16] for reason in s.closed] == ["there is no room"]
            assert len(os.listdir("/proc/self/fd")) < before

    asyncio.run(run())
