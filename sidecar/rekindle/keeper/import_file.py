"""Reading an export file without believing it: everything is verified before anything of it is used.

Runs on the worker's thread, a turn at a time. The layout is `keeper.export_format`'s. The file is read twice: once to
verify all of it, once to copy it; what the second reading finds changed ends the import.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Sequence
from pathlib import Path

from rekindle_plugins.contract.errors import StoreFullError

from rekindle.keeper.arena_bytes import BYTES_PER_TURN, PAGES_PER_TURN, ArenaBytes, digest
from rekindle.keeper.export_format import (
    HEADER_BYTES,
    HINT,
    PAGE_BYTES,
    PAGE_MAGIC,
    TAIL_BYTES,
    TAIL_MAGIC,
    ExportHeader,
    ExportPage,
    Tail,
    identity_bytes,
    rest_bytes,
    unpack_header,
    unpack_page,
)
from rekindle.keeper.refusals import ExportFileError, RequestError
from rekindle.store.page import ROOT_PARENT, Slot

PageName = tuple[bytes, int]
"""Key and group."""


class ImportFile:
    """Made on the loop, then used by one thread at a time. `close` it."""

    def __init__(self, path: Path, budget_bytes: int) -> None:
        """Args: `budget_bytes`: the store's. Pages that could not fit it are not even remembered."""
        self._subject = f"file {path}"
        if not path.is_absolute():
            hint = "the sidecar has a directory of its own"
            raise RequestError("import", self._subject, "the path is not absolute", hint)
        self._path = path
        self._budget_bytes = budget_bytes
        self._max_pages = 0
        self._fd: int | None = None
        self._offset = 0
        self._tail = Tail()
        self._buffer = bytearray()
        self.is_verified = False
        self.names: list[PageName] = []
        """Of all pages, in their order; their offsets beside them."""
        self.offsets = array("Q")
        self._seen: set[PageName] = set()
        self.outside: set[PageName] = set()
        """Parents that are not in the file: the store must have them."""

    @property
    def size_bytes(self) -> int:
        """What has been verified so far."""
        return self._offset

    def open(self) -> ExportHeader:
        """Raises RequestError where there is no readable file, ExportFileError where it is none of ours."""
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        except OSError as error:
            hint = "the path is on the sidecar's file system"
            raise RequestError("import", self._subject, error.strerror or str(error), hint) from error
        if not is_file:
            raise RequestError("import", self._subject, "it is no file", "give an export's path")
        head = self._read(0, HEADER_BYTES, at_most=True)
        count = identity_bytes(head, self._subject)
        self.header, own = unpack_header(head, self._read(HEADER_BYTES, count), self._subject)
        self._offset = HEADER_BYTES + count
        self._tail.add(own, self._offset)
        page = self.header.page
        self._max_pages = self._budget_bytes // (page.slot_bytes + page.record_bytes)
        if not self._max_pages:
            raise self._too_many()
        self._buffer = bytearray(page.rank_bytes)
        return self.header

    def verify_some(self) -> None:
        """Verifies some further pages; at the end, the trailer, and `is_verified` is set. Raises ExportFileError, and
        StoreFullError for more pages than could ever fit."""
        begin = self._offset
        for _ in range(PAGES_PER_TURN):
            if self._offset - begin >= BYTES_PER_TURN or self.is_verified:
                return
            magic = self._read(self._offset, 4)
            if magic == TAIL_MAGIC:
                self._verify_tail()
            elif magic == PAGE_MAGIC:
                self._verify_page()
            else:
                raise self._bad(f"neither a page nor the end at byte {self._offset}")

    def pages(self, offsets: Sequence[int]) -> list[ExportPage]:
        """The pages at these offsets, without their data. Raises ExportFileError."""
        return [self._page_at(offset)[0] for offset in offsets]

    def copy(self, offset: int, page: ExportPage, slot: Slot, arena: ArenaBytes) -> None:
        """A page's data into a claimed slot, verified on its way. Raises ExportFileError, OSError."""
        at = self._data_offset(offset, page)
        for rank, wanted in enumerate(page.checksums):
            part = self._part(at, rank, page, wanted)
            arena.write(slot, rank, part)
            at += len(part)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _verify_page(self) -> None:
        page, own = self._page_at(self._offset)
        name = (page.key, page.group)
        if name in self._seen:
            raise self._bad("it has a page twice")
        if len(self.names) >= self._max_pages:
            raise self._too_many()
        parent = (page.parent, page.group)
        if page.parent != ROOT_PARENT and parent not in self._seen:
            self.outside.add(parent)
        at = self._data_offset(self._offset, page)
        for rank, wanted in enumerate(page.checksums):
            at += len(self._part(at, rank, page, wanted))
        self._seen.add(name)
        self.names.append(name)
        self.offsets.append(self._offset)
        self._tail.add(own, at - self._offset, 1)
        self._offset = at

    def _verify_tail(self) -> None:
        assert self._fd is not None
        if self._read(self._offset, TAIL_BYTES) != self._tail.pack():
            raise self._bad("its trailer does not match what it holds")
        if os.fstat(self._fd).st_size != self._offset + TAIL_BYTES:
            raise self._bad("something follows its trailer")
        if late := self.outside & self._seen:
            raise self._bad(f"{len(late)} pages come before their parents")
        self._offset += TAIL_BYTES
        self._seen.clear()
        self.is_verified = True

    def _page_at(self, offset: int) -> tuple[ExportPage, bytes]:
        head = self._read(offset, PAGE_BYTES)
        rest = self._read(offset + PAGE_BYTES, rest_bytes(head, self.header, self._subject))
        return unpack_page(head, rest, self.header, self._subject)

    def _data_offset(self, offset: int, page: ExportPage) -> int:
        return offset + PAGE_BYTES + 16 * len(page.checksums) + 4 * len(page.tokens)

    def _part(self, offset: int, rank: int, page: ExportPage, wanted: bytes) -> memoryview:
        """One rank's data, in a buffer that the next call overwrites."""
        view = memoryview(self._buffer)[: self.header.parts.by_rank[rank][page.group]]
        self._read_into(view, offset)
        if digest(view) != wanted:
            raise self._bad(f"page {page.key.hex()[:16]} does not match its checksum")
        return view

    def _read(self, offset: int, size: int, at_most: bool = False) -> bytes:
        assert self._fd is not None
        data = os.pread(self._fd, size, offset)
        if len(data) < size and not at_most:
            raise self._bad("it ends in the middle")
        return data

    def _read_into(self, view: memoryview, offset: int) -> None:
        assert self._fd is not None
        done = 0
        while done < len(view):
            count = os.preadv(self._fd, [view[done:]], offset + done)
            if not count:
                raise self._bad("it ends in the middle")
            done += count

    def _too_many(self) -> StoreFullError:
        problem = f"it has more than {self._max_pages} pages, which is what the store could hold"
        return StoreFullError("import", self._subject, problem, "raise --store-size, or export single sessions")

    def _bad(self, problem: str) -> ExportFileError:
        return ExportFileError("import", self._subject, problem, HINT)
