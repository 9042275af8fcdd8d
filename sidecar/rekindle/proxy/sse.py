"""Server-sent events out of bytes as they come. Pure; knows of an event only where it ends and what its data is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class EventTooLongError(Exception):
    """An event exceeds the limit. ``rest`` is all that has not been given out."""

    def __init__(self, rest: bytes) -> None:
        super().__init__("an event exceeds the limit")
        self.rest = rest


class Event(NamedTuple):
    """``raw`` is the event with its end; ``data`` is None where it has none (a comment, say)."""

    raw: bytes
    data: bytes | None


class EventReader:
    """Feed it what arrives; it gives whole events. Line ends are LF or CRLF, as every engine sends them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest = b""

    def feed(self, arrived: bytes) -> Iterator[Event]:
        """Raises EventTooLongError."""
        self._rest = self._rest + arrived if self._rest else arrived
        while True:
            end = self._end()
            if end < 0:
                break
            raw, self._rest = self._rest[:end], self._rest[end:]
            yield Event(raw, _data(raw))
        if len(self._rest) > self._limit_bytes:
            raise EventTooLongError(self._rest)

    def _end(self) -> int:
        plain = self._rest.find(b"\n\n")
        long = self._rest.find(b"\r\n\r\n", 0, plain + 4 if plain >= 0 else len(self._rest))
        if long >= 0:
            return long + 4
        return plain + 2 if plain >= 0 else -1


def _data(raw: bytes) -> bytes | None:
    if raw.startswith(b"data: ") and raw.find(b"\n") >= len(raw) - 2:
        return raw[6:-2]  # nearly all events are one line
    lines = [line[5:].removeprefix(b" ") for line in raw.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
