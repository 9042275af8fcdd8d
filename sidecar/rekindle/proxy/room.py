"""How many new requests wait for an engine, and how much is kept of those that are protected. Pure accounting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rekindle.proxy.limits import Limits


class FullError(Exception):
    """No more may wait."""


class Room:
    """One for the whole process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.waiting = 0
        self.protected = 0
        self.journal_bytes = 0

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Raises FullError."""
        if self.waiting >= self._limits.waiting:
            raise FullError
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    @property
    def can_protect(self) -> bool:
        return self.protected < self._limits.protected and self.journal_bytes < self._limits.journals_bytes

    @property
    def is_overfull(self) -> bool:
        return self.journal_bytes > self._limits.journals_bytes * 5 // 4

    @contextmanager
    def protecting(self) -> Iterator[None]:
        self.protected += 1
        try:
            yield
        finally:
            self.protected -= 1

    @contextmanager
    def keeping(self) -> Iterator[Share]:
        """For one request, from before its body is read."""
        share = Share(self)
        try:
            yield share
        finally:
            share.grow_to(0)


class Share:
    """One request's part of what is kept."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._bytes = 0

    def fits(self, size_bytes: int) -> bool:
        """Grows to it. Whether all together may still grow."""
        self.grow_to(size_bytes)
        return not self._room.is_overfull

    def grow_to(self, size_bytes: int) -> None:
        self._room.journal_bytes += size_bytes - self._bytes
        self._bytes = size_bytes
