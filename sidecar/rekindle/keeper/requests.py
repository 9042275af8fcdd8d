"""Which request a session is of: the engine's own id, for as long as the sidecar remembers having been told.

An engine tells of the first page that each request computed. The pages behind it are that request's too, until one of
them begins another request: so a session's request is that of the page nearest to its end. Runs on the keeper's event
loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rekindle_plugins.contract.errors import ProtocolError

MAX_ROWS = 512
"""In one message."""
MAX_ID_CHARS = 128
MAX_KNOWN = 16_384
"""In one store. The oldest are forgotten first, so that what is left of a conversation never names an earlier turn as
its last one while a later one is still known."""


class RequestNames:
    """The requests of one store's chains."""

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}

    def take(self, rows: Sequence[Any], peer: str) -> None:
        """[request id, key in hex of the first page that it computed] of each. Raises ProtocolError."""
        for key, request_id in _read(rows, peer):
            self._ids.pop(key, None)
            self._ids[key] = request_id
        while len(self._ids) > MAX_KNOWN:
            del self._ids[next(iter(self._ids))]

    def of(self, keys: Iterable[bytes]) -> str:
        """The request that computed the end of a chain; `keys` from its leaf to its root. Empty where nobody knows."""
        return next((found for key in keys if (found := self._ids.get(key))), "") if self._ids else ""


def _read(rows: Sequence[Any], peer: str) -> list[tuple[bytes, str]]:
    if len(rows) > MAX_ROWS:
        raise ProtocolError("receive", f"requests from {peer}", f"{len(rows)} in one message, at most {MAX_ROWS}")
    found: list[tuple[bytes, str]] = []
    for row in rows:
        try:
            request_id, text = row
            key = bytes.fromhex(text)
        except (ValueError, TypeError) as error:
            raise ProtocolError("receive", f"requests from {peer}", f"{row!r:.120} is no row") from error
        if not isinstance(request_id, str) or not 1 <= len(request_id) <= MAX_ID_CHARS or len(key) != 32:
            raise ProtocolError("receive", f"requests from {peer}", f"{row!r:.120} is no row")
        found.append((key, request_id if request_id.isprintable() else request_id.encode("unicode_escape").decode()))
    return found
