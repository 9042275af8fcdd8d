"""One attach connection on the keeper's event loop: reads packets, queues what the peer does not take at once."""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.errors import ProtocolError, RekindleError, UnavailableError
from rekindle_plugins.contract.wire import Channel, Message, duplicate

from rekindle.keeper.pidfd import peer_pidfd

log = logging.getLogger("rekindle.attach")

MAX_QUEUED = 512
"""Messages that wait for a peer to read. Who asks for more without reading is dropped."""
READS_PER_WAKE = 32


class _Outcome(enum.Enum):
    SENT = "the kernel has it"
    WAITS = "there is no room for it"
    LOST = "nobody will get it"


@dataclass(frozen=True)
class _Queued:
    type: str
    fds: tuple[int, ...]
    fields: dict[str, Any]
    then: Callable[[], None]


def _nothing() -> None:
    pass


class Peer:
    """A connected shim half. The callbacks run on the event loop; `on_closed` is called exactly once.

    A message's descriptors are closed when `on_message` returns: who wants to keep one duplicates it.
    """

    def __init__(
        self,
        sock: socket.socket,
        pid: int,
        on_message: Callable[[Peer, Message], None],
        on_closed: Callable[[Peer, str], None],
        on_refused: Callable[[RekindleError], None],
    ) -> None:
        """`on_refused` hears why this peer is refused: a bad packet, what `on_message` raised, or a caller's reason."""
        sock.setblocking(False)
        self.pid = pid
        self.name = f"process {pid}"
        self.is_open = True
        self._channel = Channel(sock, self.name)
        self._on_message = on_message
        self._on_closed = on_closed
        self._on_refused = on_refused
        self._queue: deque[_Queued] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)
        self._pidfd = peer_pidfd(sock)
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._process_ended)

    @property
    def queued(self) -> int:
        """Messages that the peer has not made room for yet."""
        return len(self._queue)

    def send(self, type_: str, fds: Sequence[int] = (), *, then: Callable[[], None] = _nothing, **fields: Any) -> None:
        """Queues a message. Descriptors are duplicated where they must wait. Never blocks, never raises:
        where there is no room for the duplicates, the peer is closed.

        `then` is called when the kernel has the message, at once or later; never for a peer that is gone.
        """
        if not self.is_open:
            return
        outcome = _Outcome.WAITS if self._queue else self._try_send(type_, fds, fields)
        if outcome is _Outcome.SENT:
            then()
        elif outcome is _Outcome.WAITS:
            self._wait(type_, fds, fields, then)

    def _wait(self, type_: str, fds: Sequence[int], fields: dict[str, Any], then: Callable[[], None]) -> None:
        if len(self._queue) >= MAX_QUEUED:
            self.close("it does not read what it asked for")
            return
        try:
            kept = duplicate(fds)
        except OSError as error:
            self.close(f"there is no room for what it is to be given: {error}")
            return
        self._queue.append(_Queued(type_, kept, fields, then))
        self._loop.add_writer(self._channel.sock, self._writable)

    def refuse(self, error: RekindleError) -> None:
        """Tells the peer why, and hangs up."""
        if self.is_open:
            self._on_refused(error)
        self.send("refuse", code=error.code, message=f"{error.op} {error.subject}: {error.problem}", hint=error.hint)
        self.close(str(error))

    def notice_end(self) -> bool:
        """True when the peer has hung up already; then `on_closed` has been called."""
        if not self.is_open:
            return True
        try:
            at_end = self._channel.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            at_end = True
        if at_end:
            self.close("it hung up")
        return at_end

    def close(self, reason: str) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._channel.sock)
        self._loop.remove_writer(self._channel.sock)
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        self._channel.close()
        queue, self._queue = self._queue, deque()
        for queued in queue:
            Message("", {}, queued.fds).close_fds()
        self._on_closed(self, reason)

    def _try_send(self, type_: str, fds: Sequence[int], fields: dict[str, Any]) -> _Outcome:
        try:
            self._channel.send(type_, fds, **fields)
        except BlockingIOError:
            return _Outcome.WAITS
        except UnavailableError:
            return _Outcome.LOST  # the reader sees the end and closes
        except ProtocolError as error:
            log.error("event=send_failed peer=%s error=%s", self.name, error)
            self.close(str(error))
            return _Outcome.LOST
        return _Outcome.SENT

    def _writable(self) -> None:
        while self._queue and self.is_open:
            first = self._queue[0]
            outcome = self._try_send(first.type, first.fds, first.fields)
            if outcome is _Outcome.WAITS:
                return
            if self._queue:  # else the peer was closed, and the descriptors with it
                self._queue.popleft()
                Message("", {}, first.fds).close_fds()
                if outcome is _Outcome.SENT:
                    first.then()
        if self.is_open:
            self._loop.remove_writer(self._channel.sock)

    def _process_ended(self) -> None:
        """What it had sent before is still taken."""
        self._readable()
        self.close("its process ended")

    def _readable(self) -> None:
        for _ in range(READS_PER_WAKE):
            try:
                message = self._channel.receive()
            except BlockingIOError:
                return
            except RekindleError as error:
                self.refuse(error)
                return
            if message is None:
                self.close("it hung up")
                return
            try:
                self._on_message(self, message)
            except RekindleError as error:
                self.refuse(error)
                return
            except OSError as error:  # there is no room for what it brought
                self.refuse(UnavailableError("receive", f"{message.type} from {self.name}", str(error)))
                return
            finally:
                message.close_fds()
            if not self.is_open:
                return
