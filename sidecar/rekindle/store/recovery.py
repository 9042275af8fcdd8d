"""From the records of a reopened arena to a consistent set of pages: vectorised, for a million of them.

Runs in the keeper, once per opening; ``Catalog`` calls it. Untrusted input: the records are the bytes of a
file. What comes out holds no duplicate (key, group), no page without its parent, and no cycle.
"""

from __future__ import annotations

import numpy as np

from rekindle.store.arena import Arena
from rekindle.store.family import NO_SLOT, reaches_root
from rekindle.store.index import PageIndex, page_hashes
from rekindle.store.page import I64, U32, U64, Mask
from rekindle.store.report import DropReason, OpenLog


def recover_pages(arena: Arena, index: PageIndex, log: OpenLog) -> tuple[U32, U32]:
    """Build ``index`` over the arena's valid records and free the records that cannot be kept.

    Returns:
        (n,) slots kept, ascending, and (n,) the slots of their parents, NO_SLOT for roots.
    """
    slots = arena.verified_slots(log)
    hashes = page_hashes(arena.keys[slots, 0], arena.groups[slots])
    is_only = _without_duplicates(arena, slots, hashes)
    arena.clear_records(slots[~is_only])
    log.dropped(DropReason.DUPLICATE, int(np.count_nonzero(~is_only)))
    slots, hashes = slots[is_only], hashes[is_only]
    index.build(slots, hashes)
    parents, is_kept = _parents(arena, index, slots)
    if is_kept.all():
        return slots, parents
    arena.clear_records(slots[~is_kept])
    log.dropped(DropReason.ORPHAN, int(np.count_nonzero(~is_kept)))
    index.build(slots[is_kept], hashes[is_kept])
    return slots[is_kept], parents[is_kept]


def _without_duplicates(arena: Arena, slots: U32, hashes: U64) -> Mask:
    """(n,) False for all but the most recently used record of each (key, group)."""
    is_only = np.ones(len(slots), dtype=np.bool_)
    order = np.argsort(hashes, kind="stable")
    is_shared = np.zeros(len(slots), dtype=np.bool_)
    is_same = hashes[order][1:] == hashes[order][:-1]
    is_shared[1:] |= is_same
    is_shared[:-1] |= is_same
    best: dict[tuple[bytes, int], int] = {}
    for position in order[is_shared].tolist():  # as good as none, unless somebody copied records about
        slot = int(slots[position])
        name = (arena.key(slot), int(arena.groups[slot]))
        rival = best.setdefault(name, position)
        if rival != position:
            is_newer = arena.last_uses[slot] > arena.last_uses[int(slots[rival])]
            is_only[rival if is_newer else position] = False
            best[name] = position if is_newer else rival
    return is_only


def _parents(arena: Arena, index: PageIndex, slots: U32) -> tuple[U32, Mask]:
    """(n,) parent slots, NO_SLOT for roots, and (n,) whether the page hangs on a root."""
    parent_keys = arena.parents[slots]
    is_root = ~parent_keys.any(axis=1)
    found, parent_slots = index.find_many(parent_keys, arena.groups[slots], arena.keys)
    position_of: I64 = np.zeros(arena.geometry.slot_count, dtype=np.int64)
    position_of[slots] = np.arange(len(slots))
    own = np.arange(len(slots), dtype=np.int64)
    way = np.where(is_root, own, position_of[parent_slots])
    # A page that names itself as its parent would pass for a root in ``reaches_root``.
    is_known = is_root | (found & (way != own))
    parents = np.where(is_root, NO_SLOT, parent_slots).astype(np.uint32)
    return parents, reaches_root(way, is_known)
