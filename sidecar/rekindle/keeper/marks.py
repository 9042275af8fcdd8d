"""Pinning, unpinning and evicting at an operator's wish.

Runs on the keeper's event loop. A page is never evicted under a child, so a pinned last page keeps its whole session.
"""

from __future__ import annotations

import asyncio

from rekindle_plugins.contract.errors import StoreError

from rekindle.keeper.inventory import Inventory
from rekindle.keeper.refusals import NotNowError
from rekindle.keeper.stores import OpenStore
from rekindle.lifecycle.inventory import Eviction
from rekindle.store.page import Slot

EVICTIONS_PER_TURN = 256


class Marks:
    """Changes what stays in the stores of `inventory`."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def pin_session(self, session_id: str) -> int:
        """Pins a session's last page. Returns how many pages that keeps. Raises RequestError, NotFoundError."""
        store, slots = self._inventory.session_of(session_id)
        store.catalog.pin(slots[-1])
        return len(slots)

    def pin_page(self, key: str) -> int:
        """Raises RequestError, NotFoundError."""
        store, slot = self._inventory.page_of(key)
        store.catalog.pin(slot)
        return 1

    def unpin_session(self, session_id: str) -> int:
        """Takes back every pin on a session's pages, also those it had when it was shorter. Returns their number."""
        store, slots = self._inventory.session_of(session_id)
        return _unpin(store, slots)

    def unpin_page(self, key: str) -> int:
        """Raises RequestError, NotFoundError."""
        store, slot = self._inventory.page_of(key)
        return _unpin(store, [slot])

    def evict_session(self, session_id: str) -> Eviction:
        """A session's own pages leave, from its end up to where another session needs them.

        Raises RequestError, NotFoundError, NotNowError when its last page must stay: then nothing has changed.
        """
        store, slots = self._inventory.session_of(session_id)
        catalog, evicted, freed_bytes = store.catalog, 0, 0
        if catalog.arena.pins[slots[-1]]:
            raise NotNowError("evict", f"session {session_id}", "it is pinned", "`rekindle session unpin` it first")
        for slot in reversed(slots):
            size_bytes = store.parts.page_bytes(int(catalog.arena.groups[slot]))
            try:
                catalog.evict(slot)
            except StoreError:  # pinned, being read, or the beginning of another session
                break
            freed_bytes += size_bytes
            evicted += 1
        if not evicted:
            raise NotNowError("evict", f"session {session_id}", "its last page is being read", "try again in a moment")
        return Eviction(evicted, len(slots) - evicted, freed_bytes)

    async def evict_oldest(self, identity: str, page_count: int | None) -> Eviction:
        """The least recently used pages leave: so many, or all that may (None). Raises NotFoundError."""
        evicted = freed_bytes = kept = 0
        for store in self._inventory.opened(identity):
            with self._inventory.stores.borrow(store) as borrow:
                while page_count is None or evicted < page_count:
                    slot = store.catalog.evict_oldest()
                    if slot is None:
                        break
                    evicted += 1
                    freed_bytes += store.parts.page_bytes(int(store.catalog.arena.groups[slot]))
                    if evicted % EVICTIONS_PER_TURN == 0:
                        await asyncio.sleep(0)
                        borrow.check("evict")
                kept += store.catalog.counters().stored
        wanted = kept if page_count is None else page_count - evicted
        return Eviction(evicted, max(0, min(kept, wanted)), freed_bytes)


def _unpin(store: OpenStore, slots: list[Slot]) -> int:
    pins = store.catalog.arena.pins
    pinned = [slot for slot in slots if pins[slot]]
    for slot in pinned:
        store.catalog.unpin(slot)
    return len(pinned)
