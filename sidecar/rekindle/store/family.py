"""Who is whose child: linked lists over slots, so that a subtree is walked in O(its size).

Runs in the keeper, on its one thread; only the catalog uses it. Four u32 arrays, 16 bytes a slot:
parent, first child, next and previous sibling. Claimed pages are linked as well as stored ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rekindle.store.page import I64, U32, Mask, Slot

NO_SLOT = 0xFFFF_FFFF
"""No such relative, in these arrays alone: numpy has no None. It never leaves the store package."""


class Family:
    """Links between the slots of parents and children."""

    def __init__(self, slot_count: int) -> None:
        self.parents: U32 = np.full(slot_count, NO_SLOT, dtype=np.uint32)
        self.first_children: U32 = np.full(slot_count, NO_SLOT, dtype=np.uint32)
        self._next: U32 = np.full(slot_count, NO_SLOT, dtype=np.uint32)
        self._previous: U32 = np.full(slot_count, NO_SLOT, dtype=np.uint32)
        self._parent_items = self.parents.data
        self._first_items = self.first_children.data
        self._next_items = self._next.data
        self._previous_items = self._previous.data

    def link(self, child: int, parent: int) -> None:
        """Make ``child``, which has no parent, the first child of ``parent``."""
        follower = self._first_items[parent]
        self._parent_items[child] = parent
        self._next_items[child] = follower
        self._previous_items[child] = NO_SLOT
        if follower != NO_SLOT:
            self._previous_items[follower] = child
        self._first_items[parent] = child

    def unlink(self, child: int) -> None:
        """Take ``child`` from its parent; nothing happens where it has none."""
        parent = self._parent_items[child]
        if parent == NO_SLOT:
            return
        follower, leader = self._next_items[child], self._previous_items[child]
        if leader == NO_SLOT:
            self._first_items[parent] = follower
        else:
            self._next_items[leader] = follower
        if follower != NO_SLOT:
            self._previous_items[follower] = leader
        self._parent_items[child] = NO_SLOT

    def parent(self, slot: int) -> Slot | None:
        """The slot's parent, or None for a root and for a page whose parent has gone."""
        parent = self._parent_items[slot]
        return None if parent == NO_SLOT else Slot(parent)

    def children(self, slot: int) -> Iterator[Slot]:
        """The slot's children; the one just given out may be unlinked meanwhile."""
        child = self._first_items[slot]
        while child != NO_SLOT:
            follower = self._next_items[child]
            yield Slot(child)
            child = follower

    def has_children(self, slot: int) -> bool:
        """Whether any page, stored or claimed, has this one as its parent."""
        return self._first_items[slot] != NO_SLOT

    def clear(self) -> None:
        """Forget all links."""
        for array in (self.parents, self.first_children, self._next, self._previous):
            array.fill(NO_SLOT)

    def build(self, slots: U32, parents: U32) -> None:
        """Forget all links and set these, in bulk: ``parents`` (n,) of ``slots`` (n,), NO_SLOT for roots."""
        self.clear()
        self.parents[slots] = parents
        is_child = parents != NO_SLOT
        children, parents = slots[is_child], parents[is_child]
        order = np.argsort(parents, kind="stable")
        children, parents = children[order], parents[order]
        is_first = np.ones(len(children), dtype=np.bool_)
        is_first[1:] = parents[1:] != parents[:-1]
        self.first_children[parents[is_first]] = children[is_first]
        followers = np.flatnonzero(~is_first)
        self._next[children[followers - 1]] = children[followers]
        self._previous[children[followers]] = children[followers - 1]


def reaches_root(parents: I64, is_known: Mask) -> Mask:
    """Which of n pages have an unbroken, acyclic way to a root.

    ``parents`` (n,) gives each page's parent as a position 0..n, or its own position for a root;
    ``is_known`` (n,) is False where a page's parent is missing. Pointer doubling: log2(depth) rounds.
    """
    sink = len(parents)
    # One more position stands for "missing"; it leads to itself.
    way = np.append(np.where(is_known, parents, sink), sink)
    is_root = way == np.arange(sink + 1)
    is_root[sink] = False
    for _ in range(max(1, sink).bit_length() + 1):
        further = way[way]
        if np.array_equal(further, way):
            break
        way = further
    reached: Mask = is_root[way[:sink]]
    return reached
