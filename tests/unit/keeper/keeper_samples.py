"""A store with pages whose bytes are really there, and the operator's parts over it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from rekindle.keeper.arena_bytes import ArenaBytes, Worker
from rekindle.keeper.exporting import Exports
from rekindle.keeper.importing import Imports
from rekindle.keeper.inventory import Inventory
from rekindle.keeper.marks import Marks
from rekindle.keeper.resizing import Resizing
from rekindle.keeper.scrub import Scrub
from rekindle.keeper.stores import OpenStore, Stores
from rekindle.lifecycle.progress import Progress
from rekindle.store import ClaimOutcome, PageGeometry, PublishOutcome, Slot, Store
from rekindle_plugins.contract.identity import Identity

PAGE = PageGeometry(96, 2, 4)
PARTS = ((96, 40), (64, 64))
ROOT = bytes(32)
FIELDS = {"backend": "b", "model": "m", "model_files": "f", "geometry": "g", "parallel": "p", "hash_scheme": "h"}
IDENTITY = Identity.of({**FIELDS, "page_layout": "x 1*96,40;1*64,64"})
OTHER = Identity.of({**FIELDS, "model": "another", "page_layout": "x 1*96,40;1*64,64"})
SIZE = 1 << 16


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def data(name: object, rank: int, group: int = 0) -> bytes:
    """The bytes of one rank's part of a page."""
    return (hashlib.sha256(f"{name} {rank}".encode()).digest() * 4)[: PARTS[rank][group]]


def put(store: OpenStore, name: object, parent: object = None, group: int = 0) -> Slot:
    """Store a page with its bytes, as copiers and keeper do it."""
    claim = store.catalog.claim(key(name), ROOT if parent is None else key(parent), group, 0, list(key(name)[:4]))
    assert claim.outcome is ClaimOutcome.CLAIMED, claim
    assert claim.slot is not None
    arena = ArenaBytes(store)
    sums = []
    for rank in range(2):
        arena.write(claim.slot, rank, memoryview(data(name, rank, group)))
        sums.append(xxhash.xxh3_128_digest(data(name, rank, group)))
    assert store.catalog.publish(claim.slot, sums) is PublishOutcome.PUBLISHED
    return claim.slot


def put_chain(store: OpenStore, names: str, parent: object = None, group: int = 0) -> list[Slot]:
    slots = []
    for name in names:
        slots.append(put(store, name, parent, group))
        parent = name
    return slots


def stored(store: OpenStore, names: str, group: int = 0) -> str:
    """Which of these one-letter pages are stored, with the right bytes."""
    found, arena = "", ArenaBytes(store)
    for name in names:
        slot = store.catalog.lookup(key(name), group)
        if slot is not None:
            assert all(bytes(arena.read(slot, rank, group)) == data(name, rank, group) for rank in range(2)), name
            found += name
    return found


@dataclass
class Desk:
    """Everything an operator has, without a keeper around it."""

    stores: Stores
    worker: Worker = field(default_factory=Worker)
    announced: list[OpenStore] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inventory = Inventory(self.stores)
        self.marks = Marks(self.inventory)
        self.scrub = Scrub(self.inventory, self.worker, self.announced.append)
        self.exports = Exports(self.inventory, self.worker)
        self.imports = Imports(self.stores, self.worker, self.announced.append)
        self.resizing = Resizing(self.inventory, self.worker, lambda: [])

    async def open(self, identity: Identity = IDENTITY, page: PageGeometry = PAGE) -> OpenStore:
        """A store that no engine uses."""
        store = await self.stores.acquire(identity, page)
        self.stores.release(store)
        return store

    def damage(self, store: OpenStore, slot: Slot, rank: int = 0) -> None:
        """Flip a bit of a stored page."""
        arena = ArenaBytes(store)
        part = bytearray(arena.read(slot, rank, int(store.catalog.arena.groups[slot])))
        part[5] ^= 4
        arena.write(slot, rank, memoryview(part))


def silent(_: Progress) -> None:
    """Nobody follows."""


@asynccontextmanager
async def desk_in(folder: Path, size_bytes: int = SIZE) -> AsyncIterator[Desk]:
    desk = Desk(Stores(Store(folder, size_bytes)))
    try:
        yield desk
    finally:
        await desk.stores.close()
        desk.worker.close()


def with_desk(folder: Path, work: Callable[[Desk], Coroutine[Any, Any, None]], size_bytes: int = SIZE) -> None:
    """Runs `work` on a loop of its own, and ends everything."""

    async def main() -> None:
        async with desk_in(folder, size_bytes) as desk:
            await work(desk)

    asyncio.run(asyncio.wait_for(main(), 60))
