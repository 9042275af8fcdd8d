"""What opening a store found and did: the report of record, and the log it is written from.

Runs in the keeper, while a store is opened. ``OpenLog`` is handed down through ``Store``, ``Arena`` and
``Catalog``; each notes what it dropped or did, and ``Store.open`` finishes it into an ``OpenReport``.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


class DropReason(enum.Enum):
    """Why a record that was in the arena file is not in the catalog."""

    DAMAGED = "its record fails its commit word"
    TRUNCATED = "its bytes lay in a part of the file that is gone"
    ORPHAN = "its parent is missing"
    DUPLICATE = "another record has the same key and group"


@dataclass(frozen=True)
class OpenReport:
    """What opening one arena came to. ``messages`` are sentences for the operator, oldest first."""

    kept: int
    dropped: Mapping[DropReason, int]
    set_aside: Path | None
    seconds: float
    messages: tuple[str, ...]

    @property
    def dropped_total(self) -> int:
        """Records dropped for any reason."""
        return sum(self.dropped.values())


class OpenLog:
    """Collects what happens while an arena is opened. Its clock starts when it is made, and anew with `begin`."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._dropped: dict[DropReason, int] = {}
        self._messages: list[str] = []
        self.set_aside: Path | None = None

    def begin(self) -> None:
        """The opening begins now: what was collected before it stays, the time does not count."""
        self._began_s = time.perf_counter()

    def note(self, message: str) -> None:
        """Add a sentence for the operator."""
        self._messages.append(message)

    def dropped(self, reason: DropReason, count: int) -> None:
        """Count ``count`` records dropped for ``reason``; zero is not worth a word."""
        if count:
            self._dropped[reason] = self._dropped.get(reason, 0) + count
            self.note(f"{count} page(s) dropped: {reason.value}")

    def finish(self, kept: int) -> OpenReport:
        """The report, with ``kept`` pages in the catalog."""
        return OpenReport(
            kept=kept,
            dropped=MappingProxyType(dict(self._dropped)),
            set_aside=self.set_aside,
            seconds=time.perf_counter() - self._began_s,
            messages=tuple(self._messages),
        )
