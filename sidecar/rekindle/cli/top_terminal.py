"""What ``rekindle top`` needs of a terminal and of a sidecar that comes and goes: keys, and answers as they come.

Two threads: the main one draws and never waits for the sidecar, so that ``q`` is obeyed at once; the ``Poller`` asks.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rekindle_plugins.contract.errors import RekindleError

from rekindle.admin.client import AdminClient
from rekindle.lifecycle.inventory import Session
from rekindle.lifecycle.status import KeeperStatus

MOST_SESSIONS = 5


class Seen(NamedTuple):
    """One look at the sidecar."""

    status: KeeperStatus
    sessions: Sequence[Session]
    """The most recently used ones."""


def look(client: AdminClient) -> Seen:
    """Raises UnavailableError."""
    return Seen(client.status(), client.recent_sessions(MOST_SESSIONS))


Answer = Seen | Exception
"""An exception that is no RekindleError is a bug of ours, and ends the view."""


class Poller(threading.Thread):
    """Asks one sidecar for its status, again and again. ``fd`` is readable when there are answers, or after `poke`."""

    def __init__(self, socket: Path, interval_s: float, deadline_s: float) -> None:
        super().__init__(name="poller", daemon=True)
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._client = AdminClient(socket, deadline_s)
        self._interval_s = interval_s
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._answers.put(look(self._client))
            except Exception as error:
                # A connection that failed is made anew: gRPC's own would wait longer and longer between its attempts.
                self._client.close()
                self._answers.put(error)
                if not isinstance(error, RekindleError):
                    return
            finally:
                self.poke()
            self._stopped.wait(self._interval_s)

    def take(self) -> list[Answer]:
        """What has come since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        taken = []
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._answers.get_nowait())
        return taken

    def poke(self) -> None:
        os.eventfd_write(self.fd, 1)

    def stop(self) -> None:
        """Does not wait for a call that is under way: the thread ends with the process."""
        self._stopped.set()


@contextlib.contextmanager
def keys() -> Iterator[list[int]]:
    """Descriptors to read keys from, one by one and not echoed; none where the standard input is no terminal."""
    if not sys.stdin.isatty():
        yield []
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSANOW)
        yield [fd]
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def signals(poller: Poller) -> Iterator[threading.Event]:
    """SIGWINCH draws anew; SIGTERM and SIGHUP set the event, so that the terminal is left as it was found."""
    ended = threading.Event()

    def end(*_: object) -> None:
        ended.set()
        poller.poke()

    wanted = {signal.SIGWINCH: lambda *_: poller.poke(), signal.SIGTERM: end, signal.SIGHUP: end}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
