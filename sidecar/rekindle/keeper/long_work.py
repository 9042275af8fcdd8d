"""Long work of an operator as a task of its own, followed by a client that may be slow, or hang up.

Runs on the keeper's event loop. The work never waits for who follows it: it holds slots and stores, which an engine may
need. Whoever stops following ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from rekindle.keeper.refusals import BusyError
from rekindle.lifecycle.progress import Progress

Result = TypeVar("Result")
Tell = Callable[[Progress], None]
"""Called by the work with how far it is; costs nothing."""

MAX_AT_ONCE = 4
TELL_S = 0.25
"""How often a follower is told."""


async def uninterrupted(future: asyncio.Future[Result]) -> Result:
    """Waits to the end, also when the caller is cancelled meanwhile: it learns that only then."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # looked at, so that nobody complains
        raise cancelled
    return future.result()


class LongWork:
    """All long work of one sidecar."""

    def __init__(self) -> None:
        self._running = 0

    async def follow(
        self, op: str, work: Callable[[Tell], Coroutine[Any, Any, Result]]
    ) -> AsyncGenerator[Progress | Result, None]:
        """Starts `work`; gives its progress now and then, and its result last. Closing this cancels the work and waits
        until it has let go of everything. Raises BusyError, and what the work raises."""
        if self._running >= MAX_AT_ONCE:
            problem = f"{MAX_AT_ONCE} such calls are at work already"
            raise BusyError(op, "the store", problem, "wait until one of them has ended")
        latest: Progress | None = None

        def tell(progress: Progress) -> None:
            nonlocal latest
            latest = progress

        self._running += 1
        task = asyncio.get_running_loop().create_task(work(tell), name=f"admin-{op}")
        try:
            while not (await asyncio.wait([task], timeout=TELL_S))[0]:
                if latest is not None:
                    progress, latest = latest, None
                    yield progress
            yield task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._running -= 1
