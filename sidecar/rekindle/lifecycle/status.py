"""What the keeper tells of itself: plain values, made on request, shown by the admin API, the CLI and the metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class PageCounters:
    """Pages of one engine since it attached, unless said otherwise."""

    live: int = 0
    """Committed pages announced by this engine and not known to be overwritten (an upper bound)."""
    checkpointed: int = 0
    pending: int = 0
    """Committed and not yet copied, now."""
    lost_to_overwrite: int = 0
    """The engine reused the page before or during the copy."""
    lost_in_journal: int = 0
    """Records overwritten before being read. The shim announces its live pages again after each such loss."""
    already_stored: int = 0
    restored: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """By reason: checksum, fence-moved, not-stored, orphan, store-full, bad-record, copier-lost, …"""
    lag_s: float = 0.0
    """Age of the oldest page committed and not yet copied: since the keeper first saw its record. 0 without one."""


@dataclass(frozen=True)
class RecoveryReport:
    """One engine's death and the next one's recovery. Times in seconds; None where that has not happened."""

    number: int
    identity: str
    died_instance: str | None = None
    started_instance: str | None = None
    reason: str = ""
    pages_committed: int = 0
    pages_salvaged: int = 0
    pages_unsaved: int = 0
    pages_restored: int = 0
    tokens_restored: int = 0
    pages_rejected: dict[str, int] = field(default_factory=dict)
    salvage_s: float | None = None
    release_s: float | None = None
    """From noticing the death until no process of ours holds the dead engine's memory."""
    down_s: float | None = None
    """From noticing the death until the next engine was attached."""
    restore_s: float | None = None
    """From the next engine's question for pages until it had them in its own prefix cache."""
    finished_unix: float | None = None
    mismatches: tuple[str, ...] = ()
    """Why stored pages could not be used: identity fields that differ, by name."""
    suspicion: str = ""
    """What was withheld from the next engine because engines before it died right after a restore, in words."""
    began_unix: float | None = None
    """When the death was noticed; without one (the sidecar was started anew, too), when the engine attached. All that
    follows is counted from here."""
    detect_s: float | None = None
    """From the engine's last sign of life, a step's begin or end, to noticing its death: at most so long did that take.
    None where it had nothing to do: then nothing tells how long it had been dead."""
    asked_s: float | None = None
    """Until the next engine asked for pages."""
    warm_s: float | None = None
    """Until the next engine had its pages: the recovery was over."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class EngineStatus:
    instance: str
    backend: str
    engine_version: str
    state: str
    world_size: int
    ranks_attached: int
    identity: str
    attached_s: float
    page_count: int
    pages: PageCounters
    steps: int
    outstanding: int
    """Requests that run or wait in the engine."""
    shim_us_per_step: float
    note: str = ""
    plugin_version: str = ""
    api_version: str = ""
    """The contract that the engine's plugin was written for."""
    capabilities: tuple[str, ...] = ()
    hung_s: float | None = None
    """How long it has had work and made no step, once that is a hang; None where it does not hang."""
    pid: int = 0
    """The leader's process as we see it; 0 where it is of another PID namespace."""
    step_age_s: float | None = None
    """Since a step last began or ended, while requests are outstanding; None while there is nothing to do."""


@dataclass(frozen=True)
class StoreStatus:
    directory: str
    size_bytes: int
    used_bytes: int
    slots: int
    pages: int
    pinned: int
    evicted: int
    identity: str
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened, as it was logged."""

    number: int
    """Counted since the sidecar started; a gap is what a watcher has missed."""
    time_unix: float
    level: str
    name: str
    fields: dict[str, str]


@dataclass(frozen=True)
class KeeperStatus:
    version: str
    uptime_s: float
    ready: bool
    engines: tuple[EngineStatus, ...]
    stores: tuple[StoreStatus, ...]
    last_recovery: RecoveryReport | None
    refused: dict[str, int]
    """Connections turned away, by error code."""
    copier_crashes: int
    bytes_checkpointed: int
    bytes_restored: int
    restarts: int = 0
    """Engines that came after one of the same identity had died under this sidecar."""
    mode: str = "serving"
    """What an operator has told it to do: serving, paused, draining."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
