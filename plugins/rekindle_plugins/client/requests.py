"""Which request began which chain of pages: what the leader tells the sidecar, so that operators find a session.

Only the first page that a request computed is told, with the step that completed it: what follows it belongs to the
same request, until a page begins another one. Runs on the engine's scheduling thread.
"""

from __future__ import annotations

MAX_KNOWN = 4096
"""Requests that are remembered as told. One that is forgotten meanwhile is told again, which does no harm."""
MAX_NEW = 128
"""Requests in one message, which has room for so many whatever they are called. More in one step stay unnamed."""
MAX_ID_CHARS = 128


class RequestNames:
    """The requests of one engine start."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        self._new: list[list[str]] = []

    def add(self, request_id: str, key: bytes) -> None:
        """A request has computed the page of this key. Without an id nothing happens."""
        if not request_id or request_id in self._known:
            return
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[request_id] = None
        if len(self._new) < MAX_NEW:
            self._new.append([request_id[:MAX_ID_CHARS], key.hex()])

    def take(self) -> list[list[str]]:
        """[request id, key in hex] of those that were not told yet."""
        rows, self._new = self._new, []
        return rows
