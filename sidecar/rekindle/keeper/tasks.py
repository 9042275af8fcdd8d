"""Tasks that belong to somebody: kept from being collected while they run, and heard when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("rekindle.engine")


class Tasks:
    """Those of one engine. `instance` is for the log."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("event=internal_error instance=%s error=%r", self._instance, error, exc_info=error)
