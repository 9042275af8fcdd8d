"""The presence filter's writer: which pages are stored, for the engine to ask without a message.

Runs in the keeper, on its one thread, as a ``ChangeListener`` of the catalog. The engine's side maps the
memfd and reads it (``rekindle_plugins.contract.presence``, which says the byte layout once more):

    0    4   magic "RKPF"
    4    4   version u32 (1)
    8    4   k u32 (4)
    12   4   reserved
    16   8   counter count u64, a power of two >= 16 x slots
    64   ..  counters u8

Counters of (key, group): the key's four little-endian u64 words, each XOR group x 0x9E3779B97F4A7C15
(mod 2^64), masked to the counter count. A page may be present if all four are above zero. A counter that
reaches 255 stays there until the filter is cleared: it could no longer tell how many pages it stands for.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

import numpy as np
from rekindle_plugins.contract.errors import StoreError

from rekindle.store.page import U8, U16, U64

MAGIC = b"RKPF"
VERSION = 1
K = 4
HEADER_BYTES = 64
COUNTERS_PER_SLOT = 16
STUCK = 255
_HEADER = struct.Struct("<4sIIIQ")
_KEY_WORDS = struct.Struct("<4Q")
_GROUP_FACTOR = 0x9E37_79B9_7F4A_7C15
_MASK = 0xFFFF_FFFF_FFFF_FFFF
_CHUNK_PAGES = 65_536
# Linux 5.1; Python names it only from 3.13 on.
_F_SEAL_FUTURE_WRITE = 0x0010


class PresenceFilter:
    """A counting Bloom filter in a sealed memfd; pass ``fd`` to the engine's side."""

    def __init__(self, slot_count: int) -> None:
        """Make an empty filter for ``slot_count`` pages.

        Raises:
            StoreError: the kernel gave no memory for it.
        """
        self.counter_count = 1 << max(6, (slot_count * COUNTERS_PER_SLOT - 1).bit_length())
        size = HEADER_BYTES + self.counter_count
        try:
            self.fd = os.memfd_create("rekindle-presence", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.posix_fallocate(self.fd, 0, size)
            self._map = mmap.mmap(self.fd, size)
        except OSError as error:
            raise StoreError("create", "presence filter", f"{size} bytes: {error}") from error
        _HEADER.pack_into(self._map, 0, MAGIC, VERSION, K, 0, self.counter_count)
        self._counters: U8 = np.frombuffer(self._map, dtype=np.uint8, offset=HEADER_BYTES)
        self._items = memoryview(self._map)[HEADER_BYTES:]
        self._seal()

    def _seal(self) -> None:
        """The engine may neither shrink the filter under us nor write to it."""
        for seals in (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, _F_SEAL_FUTURE_WRITE):
            try:
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
            except OSError:
                pass  # An older kernel: the filter is a hint, the engine can harm only itself.

    def has(self, key: bytes, group: int = 0) -> bool:
        """Whether a page may be present: the question the engine's side asks."""
        return all(self._items[position] for position in self._positions(key, group))

    def page_added(self, key: bytes, group: int) -> None:
        """Count one page in. About 2 microseconds."""
        items = self._items
        for position in self._positions(key, group):
            if items[position] != STUCK:
                items[position] += 1

    def page_removed(self, key: bytes, group: int) -> None:
        """Count one page out, which must have been counted in."""
        items = self._items
        for position in self._positions(key, group):
            if 0 < items[position] < STUCK:
                items[position] -= 1

    def claim_given_back(self, key: bytes, group: int) -> None:
        """A claimed page was never counted."""

    def pages_added(self, keys: U64, groups: U16) -> None:
        """Count many pages in: ``keys`` (n, 4) words, ``groups`` (n,). Vectorised."""
        self._count(keys, groups, 1)

    def pages_removed(self, keys: U64, groups: U16) -> None:
        """Count many pages out: ``keys`` (n, 4) words, ``groups`` (n,). Vectorised."""
        self._count(keys, groups, -1)

    def pages_cleared(self) -> None:
        """Count every page out, stuck counters too."""
        self._counters.fill(0)

    def close(self) -> None:
        """Let go of the memory; readers keep theirs."""
        del self._counters
        self._items.release()
        self._map.close()
        os.close(self.fd)

    def _positions(self, key: bytes, group: int) -> tuple[int, int, int, int]:
        twist = group * _GROUP_FACTOR & _MASK
        mask = self.counter_count - 1
        a, b, c, d = _KEY_WORDS.unpack(key)
        return (a ^ twist) & mask, (b ^ twist) & mask, (c ^ twist) & mask, (d ^ twist) & mask

    def _count(self, keys: U64, groups: U16, sign: int) -> None:
        mask = np.uint64(self.counter_count - 1)
        for start in range(0, len(keys), _CHUNK_PAGES):
            chunk = slice(start, start + _CHUNK_PAGES)
            twist = groups[chunk].astype(np.uint64) * np.uint64(_GROUP_FACTOR)
            positions = ((keys[chunk] ^ twist[:, None]) & mask).astype(np.int64).ravel()
            # Pages may share a counter: each counter is changed once, by how often it occurs.
            positions, occurrences = np.unique(positions, return_counts=True)
            old = self._counters[positions].astype(np.int64)
            new = np.clip(old + sign * occurrences, 0, STUCK)
            self._counters[positions] = np.where(old == STUCK, STUCK, new).astype(np.uint8)
