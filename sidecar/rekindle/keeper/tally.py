"""Counting what happened to pages, for one engine or for the whole sidecar."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields


@dataclass
class CopierWork:
    """What the copiers of one rank have done. Written by their lane, at each answer and when it turns busy or idle."""

    saved_bytes: int = 0
    loaded_bytes: int = 0
    _past_s: float = 0.0
    _busy_since: float | None = None

    def set_busy(self, is_busy: bool) -> None:
        """Reads the clock only where that changes."""
        if is_busy and self._busy_since is None:
            self._busy_since = time.monotonic()
        elif not is_busy and self._busy_since is not None:
            self._past_s += time.monotonic() - self._busy_since
            self._busy_since = None

    @property
    def busy_s(self) -> float:
        since = self._busy_since
        return self._past_s + (time.monotonic() - since if since is not None else 0.0)

    def add(self, other: CopierWork) -> None:
        self.saved_bytes += other.saved_bytes
        self.loaded_bytes += other.loaded_bytes
        self._past_s += other.busy_s


@dataclass
class Tally:
    """Mutable counters; `rekindle.lifecycle` has the frozen values made from them (`status`, `totals`)."""

    committed: int = 0
    checkpointed: int = 0
    lost_to_overwrite: int = 0
    lost_in_journal: int = 0
    already_stored: int = 0
    restored: int = 0
    tokens_restored: int = 0
    bytes_checkpointed: int = 0
    bytes_restored: int = 0
    copier_crashes: int = 0
    steps: int = 0
    deaths: int = 0
    restarts: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    copiers: defaultdict[int, CopierWork] = field(default_factory=lambda: defaultdict(CopierWork))
    """By rank."""

    def reject(self, reason: str, count: int = 1) -> None:
        self.rejected[reason] += count

    def add(self, other: Tally) -> None:
        for each in fields(self):
            mine, others = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, int):
                setattr(self, each.name, mine + others)
        self.rejected.update(other.rejected)
        for rank, work in other.copiers.items():
            self.copiers[rank].add(work)
