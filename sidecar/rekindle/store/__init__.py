"""The store: checkpointed pages in node-local memory, and the catalog that says which lies where.

Runs in the keeper. ``Store`` opens an ``Arena`` (the file) with its ``Catalog`` (the index over it) per
identity; ``PresenceFilter`` tells the engine what is stored. Layers, top down: store, catalog, recovery,
arena, arena_file, layout, page.
"""

from rekindle.store.arena import Arena
from rekindle.store.catalog import Catalog
from rekindle.store.layout import ArenaGeometry, PageGeometry
from rekindle.store.page import (
    ROOT_PARENT,
    ChangeListener,
    Claim,
    ClaimOutcome,
    Counters,
    PageEntry,
    PublishOutcome,
    Slot,
)
from rekindle.store.presence import PresenceFilter
from rekindle.store.report import DropReason, OpenLog, OpenReport
from rekindle.store.slot_table import SlotState
from rekindle.store.store import OpenedArena, Store, StoredArena

__all__ = [
    "ROOT_PARENT",
    "Arena",
    "ArenaGeometry",
    "Catalog",
    "ChangeListener",
    "Claim",
    "ClaimOutcome",
    "Counters",
    "DropReason",
    "OpenLog",
    "OpenReport",
    "OpenedArena",
    "PageEntry",
    "PageGeometry",
    "PresenceFilter",
    "PublishOutcome",
    "Slot",
    "SlotState",
    "Store",
    "StoredArena",
]
