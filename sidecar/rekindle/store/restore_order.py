"""In which order pages are put back: parents before children, the most recently used chains first.

Runs in the keeper. Pure: arrays in, a list out.
"""

from __future__ import annotations

import numpy as np

from rekindle.store.family import NO_SLOT
from rekindle.store.page import I64, U32, U64, Slot


def restore_order(slots: I64, last_uses: U64, parents: U32, limit: int) -> list[Slot]:
    """Up to ``limit`` of ``slots`` (n,), which must hold the parents of all its members.

    ``last_uses`` and ``parents`` (NO_SLOT: root) are by slot. Pages are visited from the most recently used
    downwards; each brings its ancestors that are not in yet, root first. So a chain comes when its most
    recently used page does. Vectorised but for O(result) steps of a fraction of a microsecond.
    """
    if limit <= 0:
        return []
    if len(slots) > limit:
        # The most recent ``limit`` pages and their ancestors are at least as many as are wanted.
        slots = slots[np.argpartition(last_uses[slots], len(slots) - limit)[-limit:]]
    recent_first = slots[np.argsort(last_uses[slots])[::-1]].tolist()
    parent_items = parents.data
    is_taken = bytearray(len(parents))
    order: list[Slot] = []
    for slot in recent_first:
        chain: list[Slot] = []
        while slot != NO_SLOT and not is_taken[slot]:
            is_taken[slot] = 1
            chain.append(slot)
            slot = parent_items[slot]
        chain.reverse()
        order += chain
        if len(order) >= limit:
            break
    return order[:limit]
