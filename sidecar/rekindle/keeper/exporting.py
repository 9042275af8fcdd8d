"""Export: the pages of a session, or of a whole store, into one file on the sidecar's file system.

Pages are chosen and held on the keeper's event loop, a few at a time, and written on the worker's thread. A session is
held as a whole, so that its export has all of it. Of a whole store, what is evicted before its turn is left out, so
that an export never stands in the checkpoint's way. The file gets its name when it is complete.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from rekindle_plugins.contract.errors import StoreError, StoreFullError

from rekindle.keeper.arena_bytes import ArenaBytes, Worker, digest
from rekindle.keeper.chains import with_companions
from rekindle.keeper.export_format import Tail, pack_header, pack_page
from rekindle.keeper.inventory import Inventory
from rekindle.keeper.long_work import Tell
from rekindle.keeper.refusals import NotNowError, RequestError
from rekindle.keeper.scrub import held, parts_of
from rekindle.keeper.stores import OpenStore
from rekindle.lifecycle.progress import Exported, Progress
from rekindle.store.page import ROOT_PARENT, PageEntry, Slot

log = logging.getLogger("rekindle.store")


class ExportFile:
    """A file being written beside its final name. Everything but `__init__` runs on the worker's thread."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        """Raises RequestError for a path that cannot be taken."""
        subject = f"file {path}"
        if not path.is_absolute():
            raise RequestError("export", subject, "the path is not absolute", "the sidecar has a directory of its own")
        if path.is_dir() or (path.exists() and not path.is_file()):
            raise RequestError("export", subject, "it is there, and no file", "choose another path")
        if path.exists() and not overwrite:
            raise RequestError("export", subject, "it exists", "choose another path, or say that it may be replaced")
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.unfinished-{os.getpid()}-{time.monotonic_ns()}")
        self._overwrite = overwrite
        self._file: BinaryIO | None = None
        self._tail = Tail()

    @property
    def size_bytes(self) -> int:
        return self._tail.size_bytes

    def begin(self, store: OpenStore) -> None:
        """Raises StoreError, as all the others do, when the file system refuses."""
        with self._failures():
            fd = os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(fd, "wb", buffering=1 << 20)
            header, own = pack_header(store.identity, store.page)
            self._file.write(header)
            self._tail.add(own, len(header))

    def add(self, entries: Sequence[PageEntry], arena_bytes: ArenaBytes) -> int:
        """Writes pages that are held; returns how many bytes of data. Raises StoreError for one that is damaged."""
        assert self._file is not None
        data_bytes = 0
        with self._failures():
            for entry in entries:
                head, own = pack_page(entry)
                self._file.write(head)
                size = len(head)
                for rank, wanted in enumerate(entry.checksums):
                    part = arena_bytes.read(entry.slot, rank, entry.group)
                    if digest(part) != wanted:
                        problem = f"page {entry.key.hex()[:16]} is damaged on rank {rank}"
                        raise StoreError("export", f"file {self._path}", problem, "`rekindle store verify` drops it")
                    self._file.write(part)
                    size += len(part)
                    data_bytes += len(part)
                self._tail.add(own, size, 1)
        return data_bytes

    def finish(self) -> None:
        """Complete, on its medium, and then under its name."""
        assert self._file is not None
        with self._failures():
            self._file.write(self._tail.pack())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if not self._overwrite and self._path.exists():
                raise RequestError("export", f"file {self._path}", "it was made meanwhile", "choose another path")
            os.replace(self._unfinished, self._path)

    def abandon(self) -> None:
        """Nothing is left of it."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        with contextlib.suppress(OSError):
            self._unfinished.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = StoreFullError if error.errno in (28, 122) else StoreError
            hint = "the path is on the sidecar's file system; it must have room there, and be the sidecar's to write"
            raise kind("export", f"file {self._path}", error.strerror or str(error), hint) from error


class Exports:
    def __init__(self, inventory: Inventory, worker: Worker) -> None:
        self._inventory = inventory
        self._worker = worker

    async def export(self, session_id: str, identity: str, path: Path, overwrite: bool, tell: Tell) -> Exported:
        """Writes a session, or a whole store. On any failure, and when it is cancelled, no file is left behind.

        Raises RequestError, NotFoundError, StoreError, StoreFullError (of the file's volume), UnavailableError.
        """
        began = time.monotonic()
        store, slots = self._choose(session_id, identity)
        file = ExportFile(path, overwrite)
        try:
            with self._inventory.stores.borrow(store):
                arena_bytes = ArenaBytes(store)
                with held(store.catalog, slots if session_id else []) as whole:
                    if len(whole) < (len(slots) if session_id else 0):
                        raise NotNowError(
                            "export", f"session {session_id}", "it is just leaving the store", "try again"
                        )
                    await self._worker.run(lambda: file.begin(store))
                    skipped = await self._write(store, slots, file, arena_bytes, tell)
                await self._worker.run(file.finish)
        except BaseException:
            file.abandon()
            raise
        written = len(slots) - skipped
        log.info("event=exported identity=%s pages=%d bytes=%d", store.name, written, file.size_bytes)
        seconds = time.monotonic() - began
        return Exported(str(path), store.name, written, path.stat().st_size, skipped, seconds)

    async def _write(
        self, store: OpenStore, slots: Sequence[Slot], file: ExportFile, arena_bytes: ArenaBytes, tell: Tell
    ) -> int:
        """Returns how many pages were skipped. A page is written only under a parent that was written."""
        written: set[tuple[bytes, int]] = set()
        done = skipped = data_bytes = 0
        for part in parts_of(slots, arena_bytes.pages_per_turn()):
            with held(store.catalog, part) as entries:
                chosen = []
                for entry in entries:
                    if entry.parent == ROOT_PARENT or (entry.parent, entry.group) in written:
                        chosen.append(entry)
                        written.add((entry.key, entry.group))
                skipped += len(part) - len(chosen)
                data_bytes += await self._worker.run(lambda chosen=chosen: file.add(chosen, arena_bytes))  # type: ignore[misc]
            if store.is_closing:
                raise NotNowError("export", f"store {store.name}", "it is being closed", "an engine needs its room")
            done += len(part)
            tell(Progress(done, len(slots), data_bytes))
        return skipped

    def _choose(self, session_id: str, identity: str) -> tuple[OpenStore, list[Slot]]:
        if session_id and identity:
            raise RequestError("export", "pages", "a session and an identity are named", "name one of them")
        if session_id:
            store, slots = self._inventory.session_of(session_id)
            return store, with_companions(store, slots)
        store = self._inventory.only(identity, "export")
        catalog = store.catalog
        return store, catalog.restore_order(len(catalog.stored_slots()))
