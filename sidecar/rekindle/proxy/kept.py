"""Connections to the engine that are used again, and whether the one that a request went out on was."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import aiohttp

_was_used_before: ContextVar[bool] = ContextVar("was_used_before")


class KeptConnector(aiohttp.TCPConnector):
    """Without a limit on their number."""

    def __init__(self, kept_open_s: float) -> None:
        super().__init__(limit=0, keepalive_timeout=kept_open_s)
        self._used: WeakSet[Any] = WeakSet()

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Runs in the task that asks for a request, which is whom ``was_used_before`` tells."""
        connection = await super().connect(*args, **kwargs)
        _was_used_before.set(connection.protocol in self._used)
        self._used.add(connection.protocol)
        return connection

    def hang_up(self) -> None:
        """On all of them: who waits for an answer on one is told that it broke."""
        for protocol in list(self._used):
            if protocol.transport is not None:
                protocol.transport.abort()


def not_connected() -> None:
    """A request begins, and has no connection: a client's connection is one task for all its requests."""
    _was_used_before.set(False)


def was_used_before() -> bool:
    """Whether the request since then went out on a connection that another request had used."""
    return _was_used_before.get(False)
