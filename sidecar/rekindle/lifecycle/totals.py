"""What has been counted since the sidecar started, engines that are gone included: the source of the metrics.

Plain values, made at each scrape. Unlike the counts of one engine's status, none of these ever falls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PHASES = ("detect", "salvage", "release", "down", "restore", "warm")
"""The times of a recovery, as in ``RecoveryReport``: each is the field of that name and ``_s``."""

PHASE_BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""From noticing a death, which takes about a millisecond, to the start of a large engine, which takes minutes."""


@dataclass(frozen=True)
class BackendTotals:
    """All engines of one backend."""

    checkpointed: int = 0
    already_stored: int = 0
    restored: int = 0
    lost_to_overwrite: int = 0
    lost_in_journal: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    steps: int = 0
    deaths: int = 0
    restarts: int = 0


@dataclass(frozen=True)
class CopierTotals:
    """All copiers of one rank."""

    saved_bytes: int = 0
    loaded_bytes: int = 0
    busy_s: float = 0.0
    """While it had rows to copy. The waits for a cap (``copy_bandwidth``) are part of it."""


@dataclass(frozen=True)
class PhaseTimes:
    """How long one phase of the recoveries took."""

    counts: tuple[int, ...] = (0,) * (len(PHASE_BOUNDS_S) + 1)
    """By the bounds of ``PHASE_BOUNDS_S``, each without those before it; at the end those beyond the last."""
    sum_s: float = 0.0


@dataclass(frozen=True)
class Totals:
    """Everything that only grows."""

    backends: Mapping[str, BackendTotals] = field(default_factory=dict)
    copiers: Mapping[int, CopierTotals] = field(default_factory=dict)
    """By rank."""
    phases: Mapping[str, PhaseTimes] = field(default_factory=dict)
    """By name, as in ``PHASES``."""
    recoveries: int = 0
    """Recoveries that came to their end: an engine has reported how its restore went."""
    evicted: int = 0
