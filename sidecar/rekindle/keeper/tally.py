"""Counting what happened to pages, for one engine or for the whole sidecar."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Mutable counters; `rekindle.lifecycle.status` has the frozen values made from them."""

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
    rejected: Counter[str] = field(default_factory=Counter)

    def reject(self, reason: str, count: int = 1) -> None:
        self.rejected[reason] += count
