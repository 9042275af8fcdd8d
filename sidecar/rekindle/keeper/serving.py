"""What the attached engines tell of their servers: handed on, unread, to whoever speaks with those servers.

Runs on the keeper's event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Told(NamedTuple):
    """By one engine. `serving`: see `client.LeaderConfig.serving`; None where it tells nothing."""

    plugin: str
    serving: Mapping[str, Any] | None


class Serving:
    """Of all engines that are attached, by instance."""

    def __init__(self) -> None:
        self._told: dict[str, Told] = {}
        self._listener: Callable[[Sequence[Told]], None] | None = None

    def tell(self, listener: Callable[[Sequence[Told]], None]) -> None:
        """From now on: all of them, whenever that changes, and at once."""
        self._listener = listener
        listener(tuple(self._told.values()))

    def came(self, instance: str, told: Told) -> None:
        self._told[instance] = told
        self._changed()

    def went(self, instance: str) -> None:
        if self._told.pop(instance, None) is not None:
            self._changed()

    def _changed(self) -> None:
        if self._listener is not None:
            self._listener(tuple(self._told.values()))
