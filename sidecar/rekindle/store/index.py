"""The index: (key, group) to slot, open addressing over numpy arrays.

Runs in the keeper, on its one thread; only the catalog uses it. A million pages take 8 MB for the table
(u32, at most half full) and 8 MB for the hashes, where a dict of bytes objects would take some 200 MB.

    hash = ((first 8 bytes of the key) XOR group * C) * M    (mod 2^64; C, M odd)
    home = the top bits of the hash;  table[position] = slot + 1, 0 = empty;  linear probing

For one key the hash tells groups apart (C and M are odd, so both products are one to one): a match of the
hash and the key is a match of (key, group). Deletion shifts back instead of leaving tombstones (Knuth,
TAOCP 3, 6.4, algorithm R), so that lookups never slow down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rekindle.store.page import I64, U16, U32, U64, Mask, Slot

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GROUP_FACTOR = 0x9E37_79B9_7F4A_7C15
_HASH_FACTOR = 0xD6E8_FEB8_6659_FD93


def page_hash(key: bytes, group: int) -> int:
    """Hash of one page."""
    word = int.from_bytes(key[:8], "little")
    return ((word ^ (group * _GROUP_FACTOR & _MASK)) * _HASH_FACTOR) & _MASK


def page_hashes(first_words: U64, groups: U16) -> U64:
    """Hashes of many pages from the first words of their keys (n,) and their groups (n,)."""
    twist = groups.astype(np.uint64) * np.uint64(_GROUP_FACTOR)
    hashes: U64 = (first_words ^ twist) * np.uint64(_HASH_FACTOR)
    return hashes


class PageIndex:
    """The hash table. ``key_of`` reads the key of a slot's record."""

    def __init__(self, slot_count: int, key_of: Callable[[int], bytes]) -> None:
        bits = max(4, (2 * slot_count - 1).bit_length())
        self._shift = 64 - bits
        self._position_mask = (1 << bits) - 1
        self._key_of = key_of
        self._table: U32 = np.zeros(1 << bits, dtype=np.uint32)
        self._hashes: U64 = np.zeros(slot_count, dtype=np.uint64)
        # Memoryviews (``.data``) read and write one item several times faster than numpy does.
        self._table_items = self._table.data
        self._hash_items = self._hashes.data

    def find(self, key: bytes, group: int) -> Slot | None:
        """The slot of a page, or None. 1 to 2 microseconds."""
        table, hashes, mask = self._table_items, self._hash_items, self._position_mask
        wanted = page_hash(key, group)
        position = wanted >> self._shift
        while item := table[position]:
            if hashes[item - 1] == wanted and self._key_of(item - 1) == key:
                return Slot(item - 1)
            position = (position + 1) & mask
        return None

    def insert(self, slot: Slot, key: bytes, group: int) -> None:
        """Add a page that is not in the index."""
        hashed = page_hash(key, group)
        self._hash_items[slot] = hashed
        self._place(slot, hashed)

    def _place(self, slot: int, hashed: int) -> None:
        table, mask = self._table_items, self._position_mask
        position = hashed >> self._shift
        while table[position]:
            position = (position + 1) & mask
        table[position] = slot + 1

    def remove(self, slot: Slot) -> None:
        """Take out a slot that is in the index."""
        table, hashes = self._table_items, self._hash_items
        mask, shift = self._position_mask, self._shift
        hole = hashes[slot] >> shift
        while table[hole] != slot + 1:
            hole = (hole + 1) & mask
        position = hole
        while item := table[position := (position + 1) & mask]:
            home = hashes[item - 1] >> shift
            # An item may fill the hole unless its home lies behind it.
            if (position - home) & mask >= (position - hole) & mask:
                table[hole] = item
                hole = position
        table[hole] = 0

    def clear(self) -> None:
        """Forget every page."""
        self._table.fill(0)

    def build(self, slots: U32, hashes: U64) -> None:
        """Forget every page and index these, in bulk; ``hashes`` (n,) belong to ``slots`` (n,)."""
        self._table.fill(0)
        self._hashes[slots] = hashes
        # Sorted by hash they are sorted by home, and each lies at its home or right behind its predecessor.
        order = np.argsort(hashes)
        homes = (hashes[order] >> np.uint64(self._shift)).astype(np.int64)
        steps = np.arange(len(slots), dtype=np.int64)
        positions = np.maximum.accumulate(homes - steps) + steps
        fits = int(np.searchsorted(positions, len(self._table)))
        ordered = slots[order]
        self._table[positions[:fits]] = ordered[:fits] + np.uint32(1)
        for slot in ordered[fits:]:  # the few that run over the table's end wrap around
            self._place(int(slot), self._hash_items[int(slot)])

    def find_many(self, keys: U64, groups: U16, stored_keys: U64) -> tuple[Mask, I64]:
        """Look up many pages: ``keys`` (n, 4), ``groups`` (n,), ``stored_keys`` (slot_count, 4) by slot.

        Returns:
            (n,) whether each is there, and (n,) its slot, meaningless where it is not.
        """
        wanted = page_hashes(keys[:, 0], groups)
        positions = (wanted >> np.uint64(self._shift)).astype(np.int64)
        found = np.zeros(len(keys), dtype=np.bool_)
        slots = np.zeros(len(keys), dtype=np.int64)
        pending = np.arange(len(keys), dtype=np.int64)
        while len(pending):
            items = self._table[positions[pending]].astype(np.int64)
            pending, items = pending[items != 0], items[items != 0] - 1
            is_match = self._hashes[items] == wanted[pending]
            hits = np.flatnonzero(is_match)
            is_match[hits] = (stored_keys[items[hits]] == keys[pending[hits]]).all(axis=1)
            found[pending[is_match]] = True
            slots[pending[is_match]] = items[is_match]
            pending = pending[~is_match]
            positions[pending] = (positions[pending] + 1) & self._position_mask
        return found, slots
