"""How far long work is, and what it came to: plain values for the admin API and the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Told while work goes on. The total may grow, and is 0 while it is not known."""

    pages_done: int
    pages_total: int
    bytes_done: int


@dataclass(frozen=True)
class DamagedPage:
    """A stored page whose bytes are not what was checkpointed."""

    key: str
    identity: str
    slot: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Verification:
    """What looking at every checksum came to."""

    page_count: int
    size_bytes: int
    damaged: tuple[DamagedPage, ...]
    """The first of them."""
    damaged_count: int
    dropped_count: int
    """Pages that left the store: damaged ones, and those that can only be reached through them."""
    seconds: float


@dataclass(frozen=True)
class Exported:
    """What an export came to."""

    path: str
    identity: str
    page_count: int
    size_bytes: int
    """Of the file."""
    skipped_count: int
    """Pages that were evicted before their turn came."""
    seconds: float


@dataclass(frozen=True)
class Imported:
    """What an import came to."""

    identity: str
    page_count: int
    """Pages that the store did not have."""
    already_stored_count: int
    size_bytes: int
    evicted_count: int
    seconds: float


@dataclass(frozen=True)
class RestorePlan:
    """What an engine that starts now would get of one store, and what not."""

    identity: str
    page_count: int
    token_count: int
    size_bytes: int
    rejected: dict[str, int]
    """By reason: checksum (its bytes have changed), parent (a page before it is rejected), lazy-only (comes back at a
    request's demand), no-room (beyond what the engine has pages for)."""
    mismatches: tuple[str, ...]
    """Why the pages of other stores in the directory do not fit an engine of this identity."""
    seconds: float


@dataclass(frozen=True)
class Resized:
    """What a resize came to."""

    before_bytes: int
    after_bytes: int
    page_count: int
    evicted_count: int
