"""Fills in flight: which engine pages a copier may be writing right now, and when that is certainly over.

A fill ends in one of two ways. The sidecar answers for every page; or the sidecar is lost or late, and then the pages
stay quarantined until every copier that could still write is known to be gone:

    1. raise the pages' epochs      a copier that has not begun yet will refuse
    2. take what has arrived        every copier that was told to fill had been announced to us before
    3. ask the copiers to go        one byte on each lifeline
    4. wait for the copiers' end    their pidfds tell of it: nothing of the process is left then, so this is proof

Only the link's thread runs 1 to 4. `begin`, `poll` and `outstanding` are for the engine's scheduling thread.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rekindle_plugins.client.link import poll_until
from rekindle_plugins.contract.errors import ProtocolError
from rekindle_plugins.contract.fence import Fence


@dataclass(frozen=True)
class FillPage:
    """One page to put back: the stored page `key` of `group`, into the engine's page `page_id`."""

    page_id: int
    epoch: int
    group: int
    key: bytes


@dataclass(frozen=True)
class FillResult:
    """A finished fill: no copier writes into any of its pages any more."""

    fill_id: int
    ok: tuple[FillPage, ...]
    failed: tuple[tuple[FillPage, str], ...]


@dataclass(frozen=True)
class Lifeline:
    """A copier: the socket on which it is asked to go, and what proves that it has gone.

    The end of the socket alone is proof for ordinary memory. A process that is being killed closes its descriptors one
    by one, however, and the GPU's driver may stop its copies after the socket was closed: so the pidfd is waited for
    where the sidecar gave one.
    """

    socket: socket.socket
    pidfd: int | None = None

    @property
    def watched(self) -> int:
        return self.socket.fileno() if self.pidfd is None else self.pidfd

    def send(self, data: bytes, flags: int) -> int:
        return self.socket.send(data, flags)

    def close(self) -> None:
        self.socket.close()
        if self.pidfd is not None:
            os.close(self.pidfd)


@dataclass
class Fill:
    fill_id: int
    waiting: dict[int, FillPage]
    started: float
    ok: list[FillPage] = field(default_factory=list)
    failed: list[tuple[FillPage, str]] = field(default_factory=list)

    def result(self) -> FillResult:
        return FillResult(self.fill_id, tuple(self.ok), tuple(self.failed))


class Fills:
    """The table of fills in flight and the copiers' lifelines."""

    def __init__(self, fence: Fence, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._fence = fence
        self._lock = threading.Lock()
        self.finished = threading.Condition(self._lock)
        self._fills: dict[int, Fill] = {}
        self._results: deque[FillResult] = deque()
        self._lifelines: dict[int, Lifeline] = {}
        self._next_id = 0

    # -- scheduling thread -------------------------------------------------------------------------------------

    def begin(self, pages: Iterable[FillPage]) -> Fill:
        with self._lock:
            self._next_id += 1
            fill = Fill(self._next_id, {page.page_id: page for page in pages}, time.monotonic())
            if fill.waiting:
                self._fills[fill.fill_id] = fill
            else:
                self._results.append(fill.result())
            return fill

    def poll(self) -> list[FillResult]:
        if not self._results:
            return []
        with self._lock:
            results = [self._without_void(result) for result in self._results]
            self._results.clear()
            return results

    def _without_void(self, result: FillResult) -> FillResult:
        """A page whose epoch was raised since (by a reset of the cache) holds what was asked for before."""
        void = [page for page in result.ok if self._fence.epoch(page.page_id) != page.epoch]
        if not void:
            return result
        ok = tuple(page for page in result.ok if page not in void)
        return FillResult(result.fill_id, ok, (*result.failed, *((page, "void") for page in void)))

    @property
    def outstanding(self) -> int:
        return len(self._fills)

    def wait(self, timeout_s: float) -> list[FillResult]:
        """Waits for any result. Only at start-up and in steps without work."""
        with self.finished:
            if not self._results and self._fills:
                self.finished.wait(timeout_s)
        return self.poll()

    # -- any thread --------------------------------------------------------------------------------------------

    def settle(self, fill_id: int, answers: Iterable[tuple[int, str]]) -> None:
        """Takes answers (page id, reason or "" for filled). Unknown fills and pages are ignored."""
        with self.finished:
            fill = self._fills.get(fill_id)
            if fill is None:
                return
            for page_id, reason in answers:
                page = fill.waiting.pop(page_id, None)
                if page is not None and reason:
                    fill.failed.append((page, reason))
                elif page is not None:
                    fill.ok.append(page)
            if not fill.waiting:
                del self._fills[fill_id]
                self._results.append(fill.result())
                self.finished.notify_all()

    # -- the link's thread -------------------------------------------------------------------------------------

    def add_lifeline(self, fd: int, watch: dict[int, Callable[[], None]], pidfd: int | None = None) -> None:
        """Takes over both descriptors, whatever happens. Raises ProtocolError for a lifeline that is no socket."""
        try:
            lifeline = Lifeline(socket.socket(fileno=fd), pidfd)
        except OSError as error:
            for given in (fd,) if pidfd is None else (fd, pidfd):
                os.close(given)
            raise ProtocolError("receive", "copier from the sidecar", f"its lifeline is no socket: {error}") from error
        proof = lifeline.watched
        self._lifelines[proof] = lifeline
        watch[proof] = lambda: self._drop_lifeline(proof, watch)

    def _drop_lifeline(self, fd: int, watch: dict[int, Callable[[], None]]) -> None:
        watch.pop(fd, None)
        lifeline = self._lifelines.pop(fd, None)
        if lifeline is not None:
            lifeline.close()

    def overdue(self) -> float | None:
        """Seconds until the oldest fill is late (negative: it is), or None."""
        with self._lock:
            if not self._fills:
                return None
            oldest = min(fill.started for fill in self._fills.values())
        return oldest + self.timeout_s - time.monotonic()

    def abandon(self, receive_pending: Callable[[], None], watch: dict[int, Callable[[], None]], reason: str) -> None:
        """Ends every fill in flight, with proof. Blocks the link's thread, and nothing else, until the proof is there.

        A fill that begins meanwhile is not touched: its pages were not raised, so nothing is proved about it.
        """
        with self._lock:
            doomed = list(self._fills.values())
            pages = [page.page_id for fill in doomed for page in fill.waiting.values()]
        self._fence.raise_pages(pages)
        receive_pending()
        while pages and self._lifelines:
            for lifeline in self._lifelines.values():
                with contextlib.suppress(OSError):
                    lifeline.send(b"x", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            for fd in poll_until(list(self._lifelines), time.monotonic() + 1.0):
                if _is_over(self._lifelines[fd]):
                    self._drop_lifeline(fd, watch)
            receive_pending()
        with self.finished:
            for fill in doomed:
                if self._fills.pop(fill.fill_id, None) is None:
                    continue  # it was answered in the meantime
                fill.failed.extend((page, reason) for page in fill.waiting.values())
                fill.waiting.clear()
                self._results.append(fill.result())
            self.finished.notify_all()

    def close_lifelines(self, watch: dict[int, Callable[[], None]]) -> None:
        for fd in list(self._lifelines):
            self._drop_lifeline(fd, watch)


def _is_over(lifeline: Lifeline) -> bool:
    if lifeline.pidfd is not None:
        return bool(poll_until([lifeline.pidfd], time.monotonic()))
    try:
        return os.read(lifeline.watched, 16) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
