"""The open arenas of the keeper, by identity: opened when an engine of that identity attaches, kept open afterwards.

An arena stays open while its engine is away, so that the next one finds the catalog in memory. When another identity
needs the room, arenas that no engine uses are closed, and the store may delete them. Work of an operator (verify,
export, import) borrows a store meanwhile: it never keeps an engine waiting for longer than one of its steps.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from rekindle_plugins.contract.errors import IdentityError, RekindleError, StoreError, UnavailableError
from rekindle_plugins.contract.identity import Identity, Mismatch

from rekindle.keeper.page_parts import PageParts
from rekindle.keeper.refusals import NotNowError
from rekindle.keeper.requests import RequestNames
from rekindle.store.arena import Arena
from rekindle.store.catalog import Catalog
from rekindle.store.layout import PageGeometry, arena_name
from rekindle.store.presence import PresenceFilter
from rekindle.store.report import OpenReport
from rekindle.store.store import OpenedArena, Store, StoredArena

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
    requests: RequestNames = field(default_factory=RequestNames)
    users: int = 0
    borrows: set[Borrow] = field(default_factory=set)
    is_closing: bool = False

    @property
    def name(self) -> str:
        """The identity as it is shown."""
        return self.identity.digest.hex()[:12]

    @cached_property
    def parts(self) -> PageParts:
        """How large its pages are. Raises StoreError where its identity does not say so."""
        return PageParts.of_identity(self.identity, self.page)


@dataclass(eq=False)
class Borrow:
    """A store in the hands of an operator's work, which asks `check` after whatever it has awaited."""

    store: OpenStore

    def check(self, op: str) -> None:
        """Raises UnavailableError when the store is to be closed: the work has to end now."""
        if self.store.is_closing:
            problem = "an engine of another identity needs its room, or the sidecar stops"
            raise UnavailableError(op, f"store {self.store.name}", problem, "try again when it is open")


@dataclass
class Stores:
    """All open arenas of one store directory."""

    store: Store
    open_stores: dict[bytes, OpenStore] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _returned: asyncio.Event = field(default_factory=asyncio.Event)
    _evicted_before: int = 0
    """Pages evicted from arenas that were closed since."""

    @property
    def evicted(self) -> int:
        """Pages evicted for room since the sidecar started."""
        return self._evicted_before + sum(s.catalog.counters().evicted_total for s in self.open_stores.values())

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
                await self._close(found)
                found = None
            if found is None:
                for idle in [s for s in self.open_stores.values() if not s.users]:
                    await self._close(idle)
                opened = await asyncio.to_thread(self.store.open, identity.digest, identity.to_text(), page)
                found = self._adopt(identity, page, opened)
            found.users += 1
            return found

    async def open_latest(self) -> None:
        """Opens the arena that was used last, so that an engine that attaches need not wait for it. Best effort."""
        for stored in reversed(self.store.arenas()):
            try:
                identity = identity_of(stored)
                if stored.header is None or identity is None:
                    continue
                self.release(await self.acquire(identity, stored.header.geometry.page))
            except RekindleError as error:
                log.warning("event=store_not_opened arena=%s error=%s", stored.path.name, error)
            else:
                return

    def release(self, store: OpenStore) -> None:
        store.users -= 1

    @contextmanager
    def borrow(self, store: OpenStore) -> Iterator[Borrow]:
        """For work that awaits: the store is not closed before the work has let go of it."""
        borrow = Borrow(store)
        store.borrows.add(borrow)
        try:
            yield borrow
        finally:
            store.borrows.discard(borrow)
            self._returned.set()

    @asynccontextmanager
    async def alone(self, store: OpenStore) -> AsyncIterator[None]:
        """Nobody uses or borrows the store, nor opens another one, until this is left. Raises NotNowError."""
        async with self._lock:
            if self.open_stores.get(store.identity.digest) is not store or store.users:
                hint = "try again in a moment"
                raise NotNowError("resize", f"store {store.name}", "an engine has just come or gone", hint)
            await self._recall(store)
            try:
                yield
            finally:
                store.is_closing = False

    async def replace(self, store: OpenStore, exchange: Callable[[], None], size_bytes: int) -> None:
        """Within `alone`: closes the store, lets `exchange` put another file in its place, and opens that."""
        await self._close(store)
        exchange()
        self.store.store_size_bytes = size_bytes
        identity, page = store.identity, store.page
        self._adopt(identity, page, await asyncio.to_thread(self.store.open, identity.digest, identity.to_text(), page))

    async def discard(self, store: OpenStore) -> None:
        """A store that was made for nothing goes again, if nobody has come to use it."""
        async with self._lock:
            if self.open_stores.get(store.identity.digest) is not store or store.users:
                return
            if not store.catalog.counters().stored:
                await self._close(store)
                store.arena.path.unlink(missing_ok=True)

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

    def has_arena(self, identity: Identity) -> bool:
        """Whether there is a file of that identity, open or not."""
        return (self.store.directory / arena_name(identity.digest)).exists()

    async def mismatches(self, identity: Identity, judge: Judge) -> tuple[str, ...]:
        """Why the pages of other identities in the directory cannot be used, as `judge` (engine, stored) tells it."""
        found: list[str] = []
        async with self._lock:  # who opens an arena may be deleting others
            others = self.store.others(identity.digest)
        for other in others:
            stored = identity_of(other)
            if stored is None:
                found.append(f"{other.path.name}: its identity cannot be read")
                continue
            found.extend(str(mismatch) for mismatch in judge(identity, stored))
        return tuple(found[:32])

    async def close(self) -> None:
        """Waits for an arena that is being opened: the directory is ours until then."""
        async with self._lock:
            for store in list(self.open_stores.values()):
                await self._close(store)
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

    async def _recall(self, store: OpenStore) -> None:
        """Tells everybody who has borrowed it to end, and waits for them."""
        store.is_closing = True
        while store.borrows:
            self._returned.clear()
            await self._returned.wait()

    async def _close(self, store: OpenStore) -> None:
        await self._recall(store)
        del self.open_stores[store.identity.digest]
        self._evicted_before += store.catalog.counters().evicted_total
        store.presence.close()
        self.store.close_arena(store.arena)


def identity_of(stored: StoredArena) -> Identity | None:
    """Whose pages an arena file holds; None where that is damaged."""
    try:
        data = json.loads(stored.identity_json or "null")
        return Identity.of({str(name): str(value) for name, value in data.items()})
    except (IdentityError, ValueError, AttributeError):
        return None
