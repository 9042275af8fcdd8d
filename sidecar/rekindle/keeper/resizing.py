"""Giving a store another size while engines are attached to it.

Runs on the keeper's event loop; the new arena is built on the worker's thread. The engines' copiers are ended first and
started on the new arena afterwards, as with a cache reset. Meanwhile nothing is checkpointed, and loads are answered
with "resetting"; what is committed waits in the journal.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from rekindle_plugins.contract.errors import StoreFullError

from rekindle.keeper import chains
from rekindle.keeper.arena_bytes import Worker
from rekindle.keeper.inventory import Inventory
from rekindle.keeper.long_work import uninterrupted
from rekindle.keeper.refusals import RequestError
from rekindle.keeper.stores import OpenStore
from rekindle.lifecycle.progress import Resized
from rekindle.store.layout import ArenaGeometry
from rekindle.store.page import Slot
from rekindle.store.rebuild import rebuild
from rekindle.store.store import SLOT_COUNT_MIN

if TYPE_CHECKING:
    from rekindle.keeper.engine import Engine

log = logging.getLogger("rekindle.store")

LARGEST_BYTES = 1 << 50


class Resizing:
    def __init__(self, inventory: Inventory, worker: Worker, engines: Callable[[], list[Engine]]) -> None:
        self._inventory = inventory
        self._worker = worker
        self._engines = engines

    async def resize(self, identity: str, size_bytes: int) -> Resized:
        """Pages that no longer fit are evicted, the least recently used conversations first, pinned ones never.

        Raises RequestError, NotFoundError, StoreFullError when the pinned pages or the volume do not allow it (nothing
        has changed then), NotNowError when an engine comes or goes at the same moment.
        """
        store = self._inventory.only(identity, "resize")
        if not 1 <= size_bytes <= LARGEST_BYTES:
            problem = f"{size_bytes} bytes cannot be its size"
            raise RequestError("resize", f"store {store.name}", problem, "give it between 64KiB and 1024TiB")
        geometry = self._geometry(store, size_bytes)
        self._order(store, geometry)
        engines = [engine for engine in self._engines() if engine.store is store]
        found: list[Resized] = []

        async def exchange() -> None:
            if engines:
                await engines.pop().exchange_store(exchange)
            else:
                found.append(await self._exchange(store, geometry, size_bytes))

        await uninterrupted(asyncio.ensure_future(exchange()))  # a client that hangs up must not leave it half done
        return found[0]

    async def _exchange(self, store: OpenStore, geometry: ArenaGeometry, size_bytes: int) -> Resized:
        stores, before = self._inventory.stores, store.arena.geometry.file_bytes
        async with stores.alone(store):
            order, text = self._order(store, geometry), store.identity.to_text()
            evicted = store.catalog.counters().stored - len(order)
            path = await self._worker.run(lambda: rebuild(store.arena, text, geometry, order))
            await stores.replace(store, lambda: os.replace(path, store.arena.path), size_bytes)
        log.warning("event=store_resized identity=%s bytes=%d evicted=%d", store.name, geometry.file_bytes, evicted)
        return Resized(before, geometry.file_bytes, len(order), evicted)

    def _geometry(self, store: OpenStore, size_bytes: int) -> ArenaGeometry:
        opened = self._inventory.stores.open_stores.values()
        others_bytes = sum(other.arena.geometry.file_bytes for other in opened if other is not store)
        geometry = ArenaGeometry.fitting(store.page, store.identity.to_text(), size_bytes - others_bytes)
        if geometry is None or geometry.slot_count < SLOT_COUNT_MIN:
            problem = f"{size_bytes} bytes hold fewer than {SLOT_COUNT_MIN} of its pages"
            raise StoreFullError("resize", f"store {store.name}", problem, "give it more")
        return geometry

    def _order(self, store: OpenStore, geometry: ArenaGeometry) -> list[Slot]:
        """The pages that stay, parents first. Raises StoreFullError when pinned ones would not."""
        catalog = store.catalog
        stored = catalog.stored_slots()
        pinned = stored[catalog.arena.pins[stored] != 0].tolist()
        order = dict.fromkeys(slot for leaf in pinned for slot in chains.chain(catalog, Slot(leaf)))
        if len(order) > geometry.slot_count:
            problem = f"{len(order)} pages are pinned or needed by pinned ones, {geometry.slot_count} would fit"
            raise StoreFullError("resize", f"store {store.name}", problem, "unpin sessions, or give it more")
        order |= dict.fromkeys(catalog.restore_order(len(stored)))
        return list(order)[: geometry.slot_count]
