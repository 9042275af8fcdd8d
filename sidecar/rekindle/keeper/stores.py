"""The open arenas of the keeper, by identity: opened when an engine of that identity attaches, kept open afterwards.

An arena stays open while its engine is away, so that the next one finds the catalog in memory. When another identity
needs the room, arenas that no engine uses are closed, and the store may delete them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rekindle_plugins.contract.errors import IdentityError, RekindleError, StoreError
from rekindle_plugins.contract.identity import Identity, Mismatch

from rekindle.store.arena import Arena
from rekindle.store.catalog import Catalog
from rekindle.store.layout import PageGeometry, arena_name
from rekindle.store.presence import PresenceFilter
from rekindle.store.report import OpenReport
from rekindle.store.store import OpenedArena, Store

log = logging.getLogger("rekindle.store")

Judge = Callable[[Identity, Identity], Sequence[Mismatch]]


@dataclass
class OpenStore:
    """One identity's arena with its catalog and presence filter. `users` counts the engines on it."""

    identity: Identity
    page: PageGeometry
    arena: Arena
    catalog: Catalog
    presence: PresenceFilter
    report: OpenReport
    users: int = 0


@dataclass
class Stores:
    """All open arenas of one store directory."""

    store: Store
    open_stores: dict[bytes, OpenStore] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def acquire(self, identity: Identity, page: PageGeometry) -> OpenStore:
        """The arena of an identity. Raises StoreError when it cannot be opened or there is no room.

        Opening reserves the whole arena and may take seconds: it runs in a thread, and the event loop goes on.
        """
        async with self._lock:
            found = self.open_stores.get(identity.digest)
            if found is not None and found.page != page:
                if found.users:
                    problem = f"it is in use with {found.page}, this engine needs {page}"
                    raise StoreError("open", f"arena of {identity.digest.hex()[:12]}", problem)
                self._close(found)
                found = None
            if found is None:
                for idle in [s for s in self.open_stores.values() if not s.users]:
                    self._close(idle)
                opened = await asyncio.to_thread(self.store.open, identity.digest, identity.to_text(), page)
                found = self._adopt(identity, page, opened)
            found.users += 1
            return found

    async def open_latest(self) -> None:
        """Opens the arena that was used last, so that an engine that attaches need not wait for it. Best effort."""
        for stored in reversed(self.store.arenas()):
            try:
                if stored.header is None:
                    continue
                identity = Identity.of(_fields(stored.identity_json))
                self.release(await self.acquire(identity, stored.header.geometry.page))
            except (RekindleError, ValueError) as error:
                log.warning("event=store_not_opened arena=%s error=%s", stored.path.name, error)
            else:
                return

    def release(self, store: OpenStore) -> None:
        store.users -= 1

    async def purge(self, identity: Identity) -> None:
        """The pages of an identity are void: they are gone then, whether its arena is open, being opened, or not."""
        async with self._lock:
            found = self.open_stores.get(identity.digest)
            if found is not None:
                count = found.catalog.clear()
                log.warning("event=store_purged identity=%s pages=%d", identity.digest.hex()[:12], count)
                return
            path = self.store.directory / arena_name(identity.digest)
            if path.exists():
                path.unlink()
                log.warning("event=store_purged identity=%s arena=deleted", identity.digest.hex()[:12])

    async def mismatches(self, identity: Identity, judge: Judge) -> tuple[str, ...]:
        """Why the pages of other identities in the directory cannot be used, as `judge` (engine, stored) tells it."""
        found: list[str] = []
        async with self._lock:  # who opens an arena may be deleting others
            others = self.store.others(identity.digest)
        for other in others:
            try:
                stored = Identity.of(_fields(other.identity_json))
            except (IdentityError, ValueError):
                found.append(f"{other.path.name}: its identity cannot be read")
                continue
            found.extend(str(mismatch) for mismatch in judge(identity, stored))
        return tuple(found[:32])

    async def close(self) -> None:
        """Waits for an arena that is being opened: the directory is ours until then."""
        async with self._lock:
            for store in list(self.open_stores.values()):
                self._close(store)
            self.store.close()

    def _adopt(self, identity: Identity, page: PageGeometry, opened: OpenedArena) -> OpenStore:
        presence = PresenceFilter(opened.arena.geometry.slot_count)
        opened.catalog.attach(presence)
        store = OpenStore(identity, page, opened.arena, opened.catalog, presence, opened.report)
        self.open_stores[identity.digest] = store
        counters = opened.catalog.counters()
        log.info(
            "event=store_opened identity=%s slots=%d pages=%d seconds=%.3f",
            identity.digest.hex()[:12],
            counters.slot_count,
            counters.stored,
            opened.report.seconds,
        )
        for message in opened.report.messages:
            log.warning("event=store_message text=%r", message)
        return store

    def _close(self, store: OpenStore) -> None:
        del self.open_stores[store.identity.digest]
        store.presence.close()
        self.store.close_arena(store.arena)


def _fields(identity_json: str | None) -> dict[str, str]:
    data = json.loads(identity_json or "null")
    if not isinstance(data, dict):
        raise ValueError("no identity")
    return {str(name): str(value) for name, value in data.items()}
