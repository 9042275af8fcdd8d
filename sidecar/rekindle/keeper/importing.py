"""Import: the pages of an export file into the store of their identity. All of them, or none.

    verify   every byte of the file, before the store is touched
    claim    a slot for each page that the store does not have; a page is not visible while it is claimed
    copy     its data, verified again on the way
    publish  all pages, parents first, without being interrupted

What fails before the last step gives every claim back. Runs on the keeper's event loop, with the bytes on the worker's
thread; checkpoint and restore go on meanwhile. Only a kill of the sidecar while it publishes leaves a part of the
pages, each of them whole and under its parent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rekindle_plugins.contract.errors import IdentityError, StoreError, StoreFullError
from rekindle_plugins.contract.identity import Identity

from rekindle.keeper.arena_bytes import ArenaBytes, Worker
from rekindle.keeper.export_format import ExportHeader, ExportPage
from rekindle.keeper.import_file import ImportFile
from rekindle.keeper.long_work import Tell, uninterrupted
from rekindle.keeper.refusals import NotFoundError, NotNowError
from rekindle.keeper.stores import OpenStore, Stores, identity_of
from rekindle.lifecycle.progress import Imported, Progress
from rekindle.store.page import ClaimOutcome, PublishOutcome, Slot

log = logging.getLogger("rekindle.store")

PAGES_PER_LOOP_TURN = 256
OVER_HINT = "`--over` lets it take their place"


@dataclass
class _Import:
    """One import's hands on one store: claims not yet published, and pages held because ours hang on them."""

    store: OpenStore
    room_is_made: bool
    generation: int
    claims: list[tuple[Slot, tuple[bytes, ...]]] = field(default_factory=list)
    held: list[Slot] = field(default_factory=list)
    claimed: int = 0
    evicted: int = 0


class Imports:
    """`announce` asks the engines that use a store to announce their pages again: a page that they committed while it
    was claimed here may be wanted after all."""

    def __init__(self, stores: Stores, worker: Worker, announce: Callable[[OpenStore], None]) -> None:
        self._stores = stores
        self._worker = worker
        self._announce = announce

    async def import_(self, path: Path, may_evict: bool, tell: Tell) -> Imported:
        """Reads a file that `Exports` has written.

        Raises RequestError for a path that cannot be read; ExportFileError for a file that is truncated, altered or
        none; IdentityError when other pages are in its way; StoreFullError when there is no room; NotFoundError when
        it goes on from pages that the store does not have; NotNowError when the store was cleared meanwhile. In all
        these cases nothing of it is in the store.
        """
        began = time.monotonic()
        file = ImportFile(path, self._stores.store.store_size_bytes)
        try:
            header = await self._worker.run(file.open)
            self._check_identity(header.identity, may_evict)
            while not file.is_verified:
                await self._worker.run(file.verify_some)
                tell(Progress(len(file.names), 0, file.size_bytes))
            self._check_identity(header.identity, may_evict)  # an engine may have come meanwhile
            store, is_new = await self._open(header)
            try:
                with self._stores.borrow(store) as borrow:
                    work = _Import(store, may_evict, store.catalog.arena.generation)
                    try:
                        await self._begin(work, file)
                        await self._copy(work, file, borrow.check, tell)
                        published = await uninterrupted(asyncio.ensure_future(self._publish(work)))
                    finally:
                        await uninterrupted(asyncio.ensure_future(self._end(work)))
            except BaseException:
                if is_new:
                    await self._stores.discard(store)
                raise
        finally:
            file.close()
        log.info("event=imported identity=%s pages=%d bytes=%d", store.name, published, file.size_bytes)
        seconds = time.monotonic() - began
        return Imported(store.name, published, len(file.names) - work.claimed, file.size_bytes, work.evicted, seconds)

    def _check_identity(self, identity: Identity, may_evict: bool) -> None:
        """Raises IdentityError when pages of another identity would have to leave, naming what differs."""
        if identity.digest in self._stores.open_stores:
            return
        used = [store.identity for store in self._stores.open_stores.values() if store.users]
        in_way = used if may_evict else [*used, *self._others(identity)]
        if not in_way:
            return
        differing = ", ".join(str(mismatch) for mismatch in in_way[0].mismatches(identity)[:3])
        hint = "import it where an engine of its own identity runs" if used else OVER_HINT
        what = "an attached engine is" if used else "the pages in the store are"
        subject = f"pages of identity {identity.digest.hex()[:12]}"
        raise IdentityError("import", subject, f"{what} of another one: {differing[:600]}", hint)

    def _others(self, identity: Identity) -> list[Identity]:
        """Identities whose pages lie in the directory. A store that is open and empty is in nobody's way."""
        found = []
        for other in self._stores.store.others(identity.digest):
            stored = identity_of(other)
            opened = self._stores.open_stores.get(stored.digest) if stored is not None else None
            if stored is not None and (opened is None or opened.catalog.counters().stored):
                found.append(stored)
        return found

    async def _open(self, header: ExportHeader) -> tuple[OpenStore, bool]:
        """The store of the file's identity, and whether it was made for it."""
        known = self._stores.open_stores.get(header.identity.digest)
        is_new = known is None and not self._stores.has_arena(header.identity)
        if known is not None and known.page != header.page:
            problem = f"the store's pages are {known.page}, the file's {header.page}"
            hint = "the two sidecars are of different versions: use one of them for both"
            raise StoreError("import", f"store {known.name}", problem, hint)
        store = await self._stores.acquire(header.identity, header.page)
        self._stores.release(store)
        return store, is_new

    async def _begin(self, work: _Import, file: ImportFile) -> None:
        """Whether it can succeed at all. Holds what is there already, so that it stays."""
        catalog, missing = work.store.catalog, 0
        for number, (key, group) in enumerate(file.names):
            await _turn(number)
            slot = catalog.lookup(key, group)
            missing += slot is None
            if slot is not None:
                catalog.hold(slot)
                work.held.append(slot)
        for key, group in file.outside:
            slot = catalog.lookup(key, group)
            if slot is None:
                hint = "import the conversation's beginning first"
                problem = f"it goes on from page {key.hex()[:16]}, which the store does not have"
                raise NotFoundError("import", f"store {work.store.name}", problem, hint)
            catalog.hold(slot)
            work.held.append(slot)
        counters = catalog.counters()
        room = counters.slot_count - len(work.held) if work.room_is_made else counters.free
        if missing > room:
            raise self._full(work, f"{missing} pages are to be stored, there is room for {room}")

    async def _copy(self, work: _Import, file: ImportFile, check: Callable[[str], None], tell: Tell) -> None:
        arena = ArenaBytes(work.store)
        step, count, copied_bytes = arena.pages_per_turn(), len(file.names), 0
        for start in range(0, count, step):
            offsets = file.offsets[start : start + step]
            pages = await self._worker.run(lambda offsets=offsets: file.pages(offsets))  # type: ignore[misc]
            check("import")
            self._check_not_cleared(work)
            claimed = []
            for offset, page in zip(offsets, pages, strict=True):
                if work.store.catalog.lookup(page.key, page.group) is None:
                    slot = self._claim(work, page.key, page.parent, page.group, page.flags, page.tokens)
                    work.claims.append((slot, page.checksums))
                    claimed.append((offset, page, slot))
                    copied_bytes += work.store.parts.page_bytes(page.group)

            def copy(claimed: list[tuple[int, ExportPage, Slot]] = claimed) -> None:
                for offset, page, slot in claimed:
                    file.copy(offset, page, slot, arena)

            await self._worker.run(copy)
            tell(Progress(min(start + step, count), count, copied_bytes))
        check("import")
        self._check_not_cleared(work)

    def _claim(self, work: _Import, key: bytes, parent: bytes, group: int, flags: int, tokens: tuple[int, ...]) -> Slot:
        catalog = work.store.catalog
        is_full = not catalog.counters().free
        if is_full and not work.room_is_made:
            raise self._full(work, "it filled up meanwhile")
        claim = catalog.claim(key, parent, group, flags, tokens)
        if claim.outcome is ClaimOutcome.CLAIMED and claim.slot is not None:
            work.claimed += 1
            work.evicted += is_full
            return claim.slot
        if claim.outcome is ClaimOutcome.FULL:
            raise self._full(work, "every page in it is pinned, being read, or needed by one that is")
        problem = f"page {key.hex()[:16]} is {claim.outcome.value}: an engine is at it"
        raise NotNowError("import", f"store {work.store.name}", problem, "try again in a moment")

    async def _publish(self, work: _Import) -> int:
        """Returns how many pages are visible now. Raises NotNowError when all were declared void meanwhile."""
        self._check_not_cleared(work)
        published = 0
        work.claims.reverse()
        while work.claims:
            slot, checksums = work.claims.pop()
            published += work.store.catalog.publish(slot, checksums) is PublishOutcome.PUBLISHED
            await _turn(len(work.claims))
        self._check_not_cleared(work)
        return published

    async def _end(self, work: _Import) -> None:
        """Gives back what is still claimed, children first, and lets go of the rest."""
        catalog = work.store.catalog
        for number, (slot, _) in enumerate(reversed(work.claims)):
            catalog.discard(slot)
            await _turn(number)
        for number, slot in enumerate(work.held):
            catalog.release(slot)
            await _turn(number)
        self._announce(work.store)

    def _check_not_cleared(self, work: _Import) -> None:
        if work.store.catalog.arena.generation != work.generation:
            problem = "an engine has declared its pages void"
            raise NotNowError("import", f"store {work.store.name}", problem, "import it again if they are not")

    def _full(self, work: _Import, problem: str) -> StoreFullError:
        hint = "raise --store-size" if work.room_is_made else f"evict or unpin sessions; {OVER_HINT}"
        return StoreFullError("import", f"store {work.store.name}", problem, hint)


async def _turn(number: int) -> None:
    """The event loop's turn after every so many pages."""
    if number % PAGES_PER_LOOP_TURN == PAGES_PER_LOOP_TURN - 1:
        await asyncio.sleep(0)
