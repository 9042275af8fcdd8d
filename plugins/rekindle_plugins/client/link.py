"""One attach connection with its life: connect, say hello, be welcomed, receive, reconnect with back-off.

Runs in the engine process on a daemon thread of its own, so that the engine's threads never wait for the sidecar. The
sidecar may be absent, slow, restarted or hostile: all of that ends in "not linked", never in an exception for the
engine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from rekindle_plugins.contract.errors import (
    PeerRefusedError,
    ProtocolError,
    RekindleError,
    UnavailableError,
)
from rekindle_plugins.contract.wire import Channel, Message, connect

FIRST_RETRY_S = 0.05
MAX_RETRY_S = 1.0
REFUSED_RETRY_S = 5.0


class Link:
    """Owns the connection and its thread. The callbacks run on that thread."""

    def __init__(
        self,
        path: str,
        name: str,
        hello: Callable[[], tuple[dict[str, Any], Sequence[int]]],
        on_message: Callable[[Message], None],
        on_idle: Callable[[], float | None],
        on_down: Callable[[], None],
        log: logging.Logger,
        handshake_timeout_s: float = 2.0,
    ) -> None:
        """Args:
        path: the sidecar's attach socket.
        name: for logs and the thread's name ("leader", "rank 0").
        hello: builds the hello fields and its descriptors anew for each connection.
        on_message: any message, the welcome among them.
        on_idle: called between polls; returns the seconds until it wants to be called again, or None.
        on_down: the connection that had been welcomed is gone. May take its time: no new one is made meanwhile.
        """
        self.path = path
        self.name = name
        self.linked = threading.Event()
        self.settled = threading.Event()
        """Set once the first attempt to attach has succeeded or failed."""
        self.watched: dict[int, Callable[[], None]] = {}
        """Extra descriptors to poll, with their callbacks. Only the link's thread may touch this."""
        self._hello = hello
        self._on_message = on_message
        self._on_idle = on_idle
        self._on_down = on_down
        self._log = log
        self._handshake_timeout_s = handshake_timeout_s
        self._channel: Channel | None = None
        self._sending = threading.Lock()
        """Held while a packet is handed over: after `_detach` nothing more goes out on a connection that is gone."""
        self._closing = False
        self._stale = False
        self._waking = threading.Lock()
        """Held while a byte is written: the number of a closed descriptor may be another's."""
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._last_complaint = ""
        self._thread = threading.Thread(target=self._run, name=f"rekindle-{name}", daemon=True)
        forget = weakref.WeakMethod(self._forked)  # what is registered stays so, and would keep us alive
        os.register_at_fork(after_in_child=lambda: (forked := forget()) and forked())

    def start(self) -> None:
        self._thread.start()

    def _forked(self) -> None:
        """A forked child of the engine must not hold the connection: its end is how the engine's death is noticed.

        No lock may be taken here: another thread may have held it when the process was forked.
        """
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def wake(self) -> None:
        """Makes the link's thread call `on_idle` soon. Callable from any thread, never blocks."""
        with self._waking, contextlib.suppress(OSError):
            os.write(self._wake_w, b"w")

    def reconnect(self) -> None:
        """Drops the connection and makes a new one. From any thread, never blocks."""
        self._stale = True
        self.wake()

    def send(self, type_: str, **fields: Any) -> bool:
        """Sends without waiting, from any thread. False when not linked or when the sidecar does not keep up."""
        with self._sending:
            channel = self._channel
            if channel is None or not self.linked.is_set():
                return False
            try:
                channel.send(type_, **fields)
            except (BlockingIOError, RekindleError):
                return False
            return True

    def receive_pending(self) -> None:
        """Handles what has already arrived. On the link's thread only. A bad message ends it."""
        channel = self._channel
        while channel is not None:
            try:
                message = channel.receive()
                if message is None:
                    return
                self._on_message(message)
            except (BlockingIOError, TimeoutError, RekindleError):
                return

    def stop(self) -> None:
        """Like `close`, without waiting."""
        self._closing = True
        self.wake()

    def close(self, timeout_s: float = 1.0) -> bool:
        """True when the thread has ended: then it uses nothing any more, and what it used may be closed."""
        self.stop()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        with self._waking:
            for fd in (self._wake_r, self._wake_w):
                if fd >= 0:
                    os.close(fd)
            self._wake_r = self._wake_w = -1
        return True

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._closing:
            try:
                self._attach()
                retry_s = FIRST_RETRY_S
                self._last_complaint = ""
                self._serve()
            except UnavailableError as error:
                self._complain(error, logging.INFO)
                retry_s = min(MAX_RETRY_S, retry_s * 2)
            except RekindleError as error:
                self._complain(error, logging.WARNING)
                retry_s = REFUSED_RETRY_S
            except Exception as error:
                self._complain(error, logging.WARNING)
                retry_s = REFUSED_RETRY_S
            finally:
                self._detach()
                self.settled.set()
            if not self._closing:
                poll_until([self._wake_r], time.monotonic() + retry_s)
                self._drain_wakes()

    def _complain(self, error: Exception, level: int) -> None:
        """Once per kind of trouble: a sidecar that is away for a day must not fill the engine's log."""
        text = f"{type(error).__name__}: {error}"
        if text != self._last_complaint:
            self._last_complaint = text
            self._log.log(level, "rekindle %s is not attached, the engine goes on without: %s", self.name, text)

    def _attach(self) -> None:
        self._stale = False  # before the hello is built: a reconnect asked for from now on is not in vain
        channel = connect(self.path, self._handshake_timeout_s)
        try:
            fields, fds = self._hello()
            channel.send("hello", fds, **fields)
            message = channel.receive()
            if message is None:
                raise UnavailableError("attach", self.path, "the sidecar hung up")
            if message.type == "refuse":
                message.close_fds()
                raise PeerRefusedError("attach", self.path, message["message"], message["hint"])
            if message.type != "welcome":
                message.close_fds()
                raise ProtocolError("attach", self.path, f"got {message.type} in answer to hello")
        except (TimeoutError, BlockingIOError) as error:
            channel.close()
            raise UnavailableError("attach", self.path, "the sidecar did not answer in time") from error
        except BaseException:
            channel.close()
            raise
        channel.sock.setblocking(False)
        self._channel = channel
        # Linked before the welcome is acted upon: a page committed in between is written to the journal, or is among
        # the live pages that are announced then. The other way round it could be neither.
        self.linked.set()
        self._on_message(message)
        self.settled.set()
        self._log.info("rekindle %s attached to %s", self.name, self.path)

    def _serve(self) -> None:
        """Until the connection ends. Raises ProtocolError for a bad message."""
        channel = self._channel
        assert channel is not None
        while not self._closing and not self._stale:
            poll = select.poll()
            poll.register(channel.sock, select.POLLIN)
            poll.register(self._wake_r, select.POLLIN)
            for fd in self.watched:
                poll.register(fd, select.POLLIN)
            pause_s = self._on_idle()
            ready = poll.poll(None if pause_s is None else max(0, int(pause_s * 1000)))
            self._drain_wakes()
            for fd, _ in ready:
                if fd in self.watched:
                    self.watched[fd]()
            if any(fd == channel.sock.fileno() for fd, _ in ready):
                try:
                    message = channel.receive()
                except BlockingIOError:
                    continue
                if message is None:
                    return
                self._on_message(message)

    def _detach(self) -> None:
        channel = self._channel
        if channel is None:
            return
        with self._sending:
            self.linked.clear()
        try:
            self._on_down()  # may take what has arrived already: a copier's lifeline is not lost with the connection
        finally:
            self._channel = None
            channel.close()

    def _drain_wakes(self) -> None:
        try:
            while os.read(self._wake_r, 64):
                pass
        except BlockingIOError:
            return


def poll_until(fds: Sequence[int], deadline: float) -> list[int]:
    """The descriptors that became readable or hung up before `deadline` (time.monotonic)."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(0, int((deadline - time.monotonic()) * 1000)))]
