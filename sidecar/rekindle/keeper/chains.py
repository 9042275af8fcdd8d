"""Sessions as the catalog has them: which pages are leaves, and the chain from a leaf to its root.

Runs on the keeper's event loop; pure but for reading the catalog. A store of several KV-cache groups has the pages of
one position once in each group. Groups whose pages follow one another are chains; those of windowed groups stand alone.
The lowest group with chains tells the sessions; pages of the others belong to the chain's page of the same key.
"""

from __future__ import annotations

import re

import numpy as np

from rekindle.keeper.refusals import NotFoundError, RequestError
from rekindle.keeper.stores import OpenStore
from rekindle.store.catalog import Catalog
from rekindle.store.page import I64, Slot

ID_CHARS = 12
SHORTEST_ID_CHARS = 4
_HEX = re.compile(r"[0-9a-f]{1,64}")


def chain_group(catalog: Catalog) -> int:
    """The group whose leaves are the sessions' ends."""
    slots = catalog.stored_slots()
    groups = catalog.arena.groups[slots]
    with_parent = groups[catalog.arena.parents[slots].any(axis=1)]
    return int(min(with_parent, default=min(groups, default=0)))


def leaves(catalog: Catalog) -> I64:
    """(n,) the slots of the sessions' last pages, the most recently used first."""
    slots = catalog.leaves()
    slots = slots[catalog.arena.groups[slots] == chain_group(catalog)]
    ticks = catalog.arena.last_uses[slots].astype(np.int64)
    found: I64 = slots[np.lexsort((slots, -ticks))]
    return found


def chain(catalog: Catalog, leaf: Slot) -> list[Slot]:
    """From the root to `leaf`. A fraction of a microsecond a page."""
    slots: list[Slot] = []
    slot: Slot | None = leaf
    while slot is not None:
        slots.append(slot)
        slot = catalog.parent(slot)
    slots.reverse()
    return slots


def with_companions(store: OpenStore, slots: list[Slot]) -> list[Slot]:
    """A chain, and the pages of other groups at the same positions. In an order in which parents come first."""
    catalog, found = store.catalog, list(slots)
    own = int(catalog.arena.groups[slots[0]]) if slots else 0
    for group in set(range(store.parts.group_count)) - {own}:
        for slot in slots:
            companion = catalog.lookup(catalog.arena.key(slot), group)
            if companion is not None:
                found += [s for s in chain(catalog, companion) if s not in found[len(slots) :]]
    return found


def by_prefix(catalog: Catalog, slots: I64, prefix: str) -> list[Slot]:
    """Which of `slots` hold a page whose key begins with these hex digits."""
    raw = np.ascontiguousarray(catalog.arena.keys[slots]).view(np.uint8).reshape(len(slots), 32)
    whole = np.frombuffer(bytes.fromhex(prefix[: len(prefix) // 2 * 2]), np.uint8)
    fits = (raw[:, : len(whole)] == whole).all(axis=1)
    if len(prefix) % 2:
        fits &= raw[:, len(whole)] >> 4 == int(prefix[-1], 16)
    return [Slot(int(slot)) for slot in slots[fits]]


def checked_id(text: str, what: str) -> str:
    """An id as a client sent it. Raises RequestError."""
    if not _HEX.fullmatch(text) or len(text) < SHORTEST_ID_CHARS:
        problem = f"it is no id: {SHORTEST_ID_CHARS} to 64 of the digits 0-9 and a-f"
        raise RequestError("find", f"{what} {text[:70]!r}", problem, f"`rekindle {what} list` shows them")
    return text


def find(stores: list[OpenStore], text: str, what: str, of: str) -> tuple[OpenStore, Slot]:
    """The one leaf (`of` "leaves") or page ("pages") whose key begins with `text`.

    Raises RequestError for what is no id or fits several, NotFoundError where there is none.
    """
    checked_id(text, what)
    found: list[tuple[OpenStore, Slot]] = []
    for store in stores:
        slots = leaves(store.catalog) if of == "leaves" else store.catalog.stored_slots()
        found += [(store, slot) for slot in by_prefix(store.catalog, slots, text)]
    if not found:
        hint = f"`rekindle {what} list` shows what there is"
        hint += "; a session's id changes when its conversation goes on" if of == "leaves" else ""
        raise NotFoundError("find", f"{what} {text}", "there is none", hint)
    if len({store.catalog.arena.key(slot) for store, slot in found}) > 1:
        some = ", ".join(sorted(store.catalog.arena.key(slot).hex()[:16] for store, slot in found)[:4])
        raise RequestError("find", f"{what} {text}", f"{len(found)} begin so: {some}", "give more of its digits")
    return found[0]
