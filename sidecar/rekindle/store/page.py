"""The words of the store as types: slots, page entries, outcomes, counters and the change listener.

Runs in the keeper, on its one event-loop thread. Every other module of ``rekindle.store`` imports
from here; this module imports nothing of the store.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NewType, Protocol

import numpy as np
import numpy.typing as npt

Slot = NewType("Slot", int)
"""Index of a slot in one arena, 0 <= slot < slot_count."""

KEY_BYTES = 32
CHECKSUM_BYTES = 16
ROOT_PARENT = bytes(KEY_BYTES)
"""The parent of a page that starts at token 0."""

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class ClaimOutcome(enum.Enum):
    """What became of ``Catalog.claim``."""

    CLAIMED = "claimed"
    ALREADY_STORED = "already stored"
    ALREADY_CLAIMED = "already claimed"
    ORPHAN = "orphan"
    FULL = "full"


class PublishOutcome(enum.Enum):
    """What became of ``Catalog.publish``. In all but PUBLISHED the slot is free again."""

    PUBLISHED = "published"
    ORPHAN = "orphan"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Claim:
    """Outcome of ``Catalog.claim``; ``slot`` is None for ORPHAN and FULL."""

    outcome: ClaimOutcome
    slot: Slot | None


@dataclass(frozen=True)
class PageEntry:
    """One stored or claimed page as its record tells it; ``checksums`` is empty while claimed.

    ``checksums`` holds one 16-byte XXH3-128 digest per rank, ``last_use`` a tick of the catalog's own
    clock: nanoseconds since 1970 as the wall clock had them, and always later than any use before.
    """

    slot: Slot
    key: bytes
    parent: bytes
    group: int
    flags: int
    tokens: tuple[int, ...]
    checksums: tuple[bytes, ...]
    last_use: int
    pinned: bool


@dataclass(frozen=True)
class Counters:
    """Counts of slots by state, and totals since the catalog was opened."""

    slot_count: int
    free: int
    claimed: int
    stored: int
    waiting: int  # withdrawn or leaving: invisible, and not yet reusable
    pinned: int
    held: int
    published_total: int
    evicted_total: int
    dropped_total: int
    stored_bytes: int


class ChangeListener(Protocol):
    """Hears which pages become visible and invisible: the ``PresenceFilter``, and the engines' ``Transfers``.

    Called on the keeper's thread in the middle of a catalog operation: it must not call the catalog
    back and must not raise. Keys in bulk are an (n, 4) array of little-endian u64 words, groups (n,) u16.
    """

    def page_added(self, key: bytes, group: int) -> None:
        """A page was published."""

    def page_removed(self, key: bytes, group: int) -> None:
        """A page was evicted or dropped."""

    def claim_given_back(self, key: bytes, group: int) -> None:
        """Who was at a page has not stored it."""

    def pages_added(self, keys: U64, groups: U16) -> None:
        """Pages that were there when the listener was attached."""

    def pages_cleared(self) -> None:
        """Every page has gone."""
