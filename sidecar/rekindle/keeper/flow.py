"""Checkpointing at an operator's wish: now, not now, and no further engines.

Runs on the keeper's event loop. The checkpoint itself is `keeper.checkpoint`'s and continuous; what is here waits for
it, or holds it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from rekindle.keeper.gate import Gate, Mode
from rekindle.keeper.refusals import NotNowError
from rekindle.lifecycle.progress import Progress

if TYPE_CHECKING:
    from rekindle.keeper.engine import Engine

POLL_S = 0.02
TELL_S = 0.25
"""How often a waiting client is told how far it is."""


class Flow:
    """`engines` gives all of them, the dying ones included."""

    def __init__(self, gate: Gate, engines: Callable[[], list[Engine]]) -> None:
        self._gate = gate
        self._engines = engines

    def pause(self) -> None:
        """Nothing more is claimed; copies under way end. Raises NotNowError while draining."""
        if self._gate.mode is Mode.DRAINING:
            raise NotNowError("pause", "checkpointing", "the sidecar is draining", "`rekindle resume` ends that")
        self._gate.set(Mode.PAUSED)

    def resume(self) -> None:
        """Ends a pause or a drain. What the engines committed meanwhile is copied, or announced again."""
        self._gate.set(Mode.SERVING)
        for engine in self._engines():
            engine.pump_soon()

    async def checkpoint(self) -> AsyncGenerator[Progress, None]:
        """Waits until nothing is pending, and tells how far it is. Raises NotNowError while paused."""
        loop = asyncio.get_running_loop()
        most = self._pending()
        told = 0.0
        while True:
            if not self._gate.is_open:
                raise NotNowError("checkpoint", "engines", "checkpointing is paused", "`rekindle resume` first")
            pending = self._pending()
            most = max(most, pending)
            if not pending or loop.time() - told >= TELL_S:
                told = loop.time()
                yield Progress(most - pending, most, 0)
            if not pending:
                return
            await asyncio.sleep(POLL_S)

    async def drain(self) -> AsyncGenerator[Progress, None]:
        """Takes no further engine, and waits until what is committed is stored. The drain outlives the caller."""
        if self._gate.mode is Mode.PAUSED:
            self.resume()
        self._gate.set(Mode.DRAINING)
        async for progress in self.checkpoint():
            yield progress

    def _pending(self) -> int:
        return sum(engine.pending for engine in self._engines())
