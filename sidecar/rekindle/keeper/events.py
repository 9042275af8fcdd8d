"""What happens in the sidecar, for whoever watches: its own log lines of INFO and above, as events.

So nothing has to be told twice, and what is logged can be watched. Lines may come from any thread; everything else runs
on the keeper's event loop. A watcher that is too slow loses the oldest events, and is told how many.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator

from rekindle.keeper.refusals import BusyError, RequestError
from rekindle.lifecycle.status import Event
from rekindle.log_lines import OURS, event_fields

KEPT = 256
"""Events that a watcher may ask for that happened before it came."""
MAX_WAITING = 1024
"""Events that may wait for one watcher."""
MAX_WATCHERS = 16
MAX_VALUE_CHARS = 500


class Watcher:
    """One reader's queue."""

    def __init__(self, backlog: list[Event]) -> None:
        self._events: deque[Event] = deque(backlog)
        self._lost = 0
        self._arrived = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        return not self._events

    def put(self, event: Event) -> None:
        """Never waits: what there is no room for pushes the oldest out."""
        if len(self._events) >= MAX_WAITING:
            self._events.popleft()
            self._lost += 1
        self._events.append(event)
        self._arrived.set()

    async def next(self) -> tuple[Event, int]:
        """The next event, and how many were lost since the one before."""
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        lost, self._lost = self._lost, 0
        return self._events.popleft(), lost


class EventLog(logging.Handler):
    """The handler of our loggers that makes events of their lines. Made and started on the event loop."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._loop = asyncio.get_running_loop()
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._watchers: set[Watcher] = set()
        self._number = 0

    def start(self) -> None:
        for name in OURS:
            logging.getLogger(name).addHandler(self)

    def stop(self) -> None:
        for name in OURS:
            logging.getLogger(name).removeHandler(self)

    @contextlib.contextmanager
    def watch(self, backlog: int) -> Iterator[Watcher]:
        """A queue of all events from now on, and of some before. Raises RequestError, BusyError."""
        if backlog > KEPT:
            problem = f"{backlog} of before are wanted, at most {KEPT} are kept"
            raise RequestError("watch", "events", problem, "the rest is in the sidecar's log")
        if len(self._watchers) >= MAX_WATCHERS:
            raise BusyError("watch", "events", f"{MAX_WATCHERS} watch already", "end one of them")
        watcher = Watcher(list(self._kept)[-backlog:] if backlog else [])
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def emit(self, record: logging.LogRecord) -> None:
        """On whatever thread something was logged."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._tell, record)

    def _tell(self, record: logging.LogRecord) -> None:
        fields = {key: str(value)[:MAX_VALUE_CHARS] for key, value in event_fields(record).items()}
        name = fields.pop("event", "")
        self._number += 1
        event = Event(self._number, record.created, record.levelname.lower(), name, fields)
        self._kept.append(event)
        for watcher in self._watchers:
            watcher.put(event)
