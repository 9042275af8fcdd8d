"""The fence: one epoch counter per page, in shared memory.

The engine's scheduling thread raises a page's epoch before the step that may overwrite the page is dispatched. A
copier reads the epoch after its copy; when it differs from the committed one, the copy is thrown away. An epoch never
goes down and never repeats within an engine's life.

    offset  size  field                        memfd of 64 + 8 · page_count bytes, written by the engine alone
         0     8  magic  "RKFENCE1"
         8     8  page count
        64   8·i  epoch of page i (u64, little-endian, aligned: loads and stores are single instructions)
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterable

from rekindle_plugins.contract.errors import ProtocolError
from rekindle_plugins.contract.sharedmem import create_sealed, map_shared, require_sealed

MAGIC = b"RKFENCE1"
HEADER_BYTES = 64
_HEADER = struct.Struct("<8sQ")


class Fence:
    """One mapping of a fence. The engine side creates it; the sidecar opens it read-only."""

    def __init__(self, fd: int, page_count: int, mapping: mmap.mmap) -> None:
        self.fd = fd
        self.page_count = page_count
        self.mapping = mapping
        self._epochs = memoryview(mapping)[HEADER_BYTES : HEADER_BYTES + 8 * page_count].cast("Q")
        self._raising = threading.Lock()

    @staticmethod
    def create(page_count: int) -> Fence:
        """Engine side. All epochs start at 0; a page is committed under the epoch of its last raise."""
        size = HEADER_BYTES + 8 * page_count
        fd = create_sealed("rekindle-fence", size)
        mapping = mmap.mmap(fd, size)
        _HEADER.pack_into(mapping, 0, MAGIC, page_count)
        return Fence(fd, page_count, mapping)

    @staticmethod
    def open(fd: int, page_count: int) -> Fence:
        """Sidecar side, read-only: takes over `fd`, whatever happens.

        Raises ProtocolError when the memory is not a fence for `page_count` pages.
        """
        try:
            return Fence._open(fd, page_count)
        except BaseException:
            os.close(fd)
            raise

    @staticmethod
    def _open(fd: int, page_count: int) -> Fence:
        size = HEADER_BYTES + 8 * page_count
        given = require_sealed(fd, "fence")
        if given < size:
            raise ProtocolError("attach", "fence", f"{given} bytes are too few for {page_count} pages")
        mapping = map_shared(fd, size, "fence", mmap.PROT_READ)
        magic, count = _HEADER.unpack_from(mapping, 0)
        if magic != MAGIC or count != page_count:
            mapping.close()
            raise ProtocolError("attach", "fence", f"magic {magic!r} and {count} pages, wanted {page_count}")
        return Fence(fd, page_count, mapping)

    def epoch(self, page_id: int) -> int:
        return self._epochs[page_id]

    def raise_pages(self, page_ids: Iterable[int]) -> None:
        """Must be called before the step that may write these pages is dispatched. From any thread.

        The lock keeps an epoch from going down: without it, a thread that was stopped between reading and writing an
        epoch would undo what another raised meanwhile.
        """
        epochs = self._epochs
        with self._raising:
            for page_id in page_ids:
                epochs[page_id] += 1

    def close(self) -> None:
        self._epochs.release()
        self.mapping.close()
        os.close(self.fd)
