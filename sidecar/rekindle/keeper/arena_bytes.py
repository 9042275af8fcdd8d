"""The bytes of stored pages for an operator's work: verify, export, import. On a worker's thread, never on the loop.

The keeper decides on its loop which slots are looked at, and holds them; `Worker` runs what touches bytes. They are
read and written through the arena's descriptor, not through a mapping: it is the same memory, the interpreter lock is
let go of meanwhile, and a file that somebody cuts short is a short read, not a SIGBUS.
"""

from __future__ import annotations

import os
from asyncio import get_running_loop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import xxhash
from rekindle_plugins.contract.errors import StoreError

from rekindle.keeper.long_work import uninterrupted
from rekindle.keeper.page_parts import PageParts
from rekindle.keeper.stores import OpenStore
from rekindle.store.page import Slot

Result = TypeVar("Result")

BYTES_PER_TURN = 8 << 20
PAGES_PER_TURN = 64
"""What is done between two looks at whether the work is still wanted. Both are upper bounds; one page is the least."""


class ArenaBytes:
    """Reads and writes the parts of an open store's pages. Made on the loop, used by one thread at a time."""

    def __init__(self, store: OpenStore) -> None:
        """Raises StoreError where the identity does not say how large its pages are."""
        self.parts: PageParts = store.parts
        self._geometry = store.arena.geometry
        self._fd = store.arena.fd
        self._name = store.name
        self._buffer = bytearray(self._geometry.page.rank_bytes)

    def pages_per_turn(self) -> int:
        largest = max(self.parts.page_bytes(group) for group in range(self.parts.group_count))
        return max(1, min(PAGES_PER_TURN, BYTES_PER_TURN // largest))

    def read(self, slot: Slot, rank: int, group: int) -> memoryview:
        """One rank's part of a page; valid until the next call. Raises StoreError."""
        size = self.parts.by_rank[rank][group]
        view = memoryview(self._buffer)[:size]
        offset, done = self._geometry.slot_offset(slot, rank), 0
        while done < size:
            count = os.preadv(self._fd, [view[done:]], offset + done)
            if not count:
                problem = "the arena's file has been cut short"
                hint = "restart the sidecar: it keeps the pages that are left"
                raise StoreError("read", f"slot {slot} of store {self._name}", problem, hint)
            done += count
        return view

    def write(self, slot: Slot, rank: int, data: memoryview) -> None:
        """One rank's part of a claimed slot."""
        offset, done = self._geometry.slot_offset(slot, rank), 0
        while done < len(data):
            done += os.pwritev(self._fd, [data[done:]], offset + done)

    def damaged_ranks(self, slot: Slot, group: int, checksums: tuple[bytes, ...]) -> tuple[int, ...]:
        """The ranks whose part of a held page is not what was checkpointed."""
        return tuple(rank for rank, wanted in enumerate(checksums) if digest(self.read(slot, rank, group)) != wanted)


class Worker:
    """One thread for the bytes of all operators' work. Its turns are short, so that each gets its own soon."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "arena-bytes")

    async def run(self, work: Callable[[], Result]) -> Result:
        """Runs `work` on the thread. Also when the caller is cancelled, the work is over when this returns or raises:
        what it reads or writes may be let go of then."""
        return await uninterrupted(get_running_loop().run_in_executor(self._pool, work))

    def close(self) -> None:
        self._pool.shutdown(wait=True)


def digest(data: memoryview | bytes) -> bytes:
    """XXH3-128, as the copiers compute it."""
    return xxhash.xxh3_128_digest(data)
