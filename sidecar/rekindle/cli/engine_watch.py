"""Asks the sidecar whether the engine has attached, and whether it hangs, for ``rekindle run``.

Runs on the supervisor's event loop; each question is asked on a thread. The sidecar judges, this only listens: one that
is away, stopped or slow to answer says nothing, and nothing happens to the engine then.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rekindle.lifecycle.status import EngineStatus

_DEADLINE_S = 2.0
_SHORTEST_PERIOD_S = 0.1
_UNTIL_ATTACHED_S = 0.5
"""The longest time between two questions before the engine has attached."""


@dataclass(frozen=True)
class Hang:
    """What the sidecar said. ``stalled_s``: how long the engine has stood still."""

    text: str
    stalled_s: float


class EngineWatch:
    """The watch over one started engine: the one whose leader is in the session that ``pid`` leads."""

    def __init__(
        self, admin_socket: Path, pid: int, period_s: float, on_attached: Callable[[], None] = lambda: None
    ) -> None:
        """`on_attached`: called once, when the engine is first seen."""
        self._socket = admin_socket
        self._pid = pid
        self._period_s = max(period_s, _SHORTEST_PERIOD_S)
        self._on_attached = on_attached
        self.has_attached = False
        """Once it has been seen to be."""

    async def until_hung(self) -> Hang:
        """Returns when the engine hangs, and never where it does not. May be cancelled."""
        from rekindle.admin.client import AdminClient

        with AdminClient(self._socket, _DEADLINE_S) as client:
            while True:
                await asyncio.sleep(self._period_s if self.has_attached else min(self._period_s, _UNTIL_ATTACHED_S))
                try:
                    status = await asyncio.to_thread(client.status)
                except Exception:  # whatever it is, it is no hang of the engine's
                    continue
                for engine in filter(self._is_ours, status.engines):
                    if not self.has_attached:
                        self.has_attached = True
                        self._on_attached()
                    if engine.hung_s is not None:
                        return Hang(engine.note, engine.hung_s)

    def _is_ours(self, engine: EngineStatus) -> bool:
        """A sidecar may have other engines, which are not ours to end."""
        try:
            return engine.pid > 0 and os.getsid(engine.pid) == self._pid
        except ProcessLookupError:
            return False
