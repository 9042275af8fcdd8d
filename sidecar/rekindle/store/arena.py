"""The arena: one mapped file of records and page data, and the rules for changing a record safely.

Runs in the keeper, on its one thread; the catalog is its only caller. The keeper maps the headers and the
record table alone. Page bytes are the copiers' business: they map ``fd`` themselves and find their part
with ``geometry.slot_offset``.

A record becomes valid by one aligned 8-byte store of its commit word, after everything it covers was
written, and free by one store of 0. A process that is killed has done a prefix of its stores, so every
instant of this order is a valid arena. (Only a machine crash could tear it, and then the memory is gone.)
"""

from __future__ import annotations

import mmap
import os
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rekindle_plugins.contract.errors import StoreError, StoreFullError

from rekindle.store import arena_file
from rekindle.store.arena_file import Step, no_step
from rekindle.store.commit_word import commit_word, commit_words, make_weights
from rekindle.store.layout import (
    CHECKSUMS_OFFSET,
    COMMIT_WORD,
    GENERATION_OFFSET,
    LAST_USE_WORD,
    PAYLOAD_OFFSET,
    PINS_WORD,
    RECORD_HEAD,
    REPLICA_OFFSET,
    ArenaGeometry,
    Header,
)
from rekindle.store.page import CHECKSUM_BYTES, U16, U32, U64, PageEntry, Slot
from rekindle.store.report import DropReason, OpenLog


class Arena:
    """An open arena. Make one with ``Arena.open``; ``close`` it when done."""

    def __init__(self, path: Path, fd: int, header: Header, present_bytes: int, step: Step) -> None:
        """Map a file that ``open`` has found or made good; takes over ``fd``."""
        self.path = path
        self.fd = fd
        self.geometry: ArenaGeometry = header.geometry
        self.identity_digest: bytes = header.identity_digest
        self._present_bytes = present_bytes
        self._step = step
        page = self.geometry.page
        self._record_bytes = page.record_bytes
        self._record_words = page.record_bytes // 8
        self._base = self.geometry.records_offset
        self._base_word = self._base // 8
        self._tokens_offset = page.tokens_offset
        self._payload_words = (page.record_bytes - PAYLOAD_OFFSET) // 4
        self._weights = make_weights(self._payload_words)
        self._map = mmap.mmap(fd, self.geometry.pages_offset)
        self._attach_views()
        self._generation = self._settle_generation()

    @classmethod
    def open(
        cls,
        path: Path,
        identity_digest: bytes,
        identity_json: str,
        geometry: ArenaGeometry,
        log: OpenLog,
        *,
        room_bytes: int | None = None,
        step: Step = no_step,
    ) -> Arena:
        """Open the arena at ``path``, or make a fresh one of ``geometry``. May block for long while making.

        An arena of the same identity and page geometry is taken as it is, with its own slot count. One
        with both headers damaged, of another identity or of another page geometry is set aside. The fresh
        arena and the file set aside together take at most ``room_bytes`` (None: whatever fits).

        Raises:
            StoreFullError: not enough room; nothing is left behind but what was there.
            StoreError: the file system refused.
        """
        if sys.byteorder != "little":
            raise StoreError("open", f"arena {path}", "the format is little-endian and this machine is not")
        try:
            if path.exists():
                arena = cls._reopen(path, identity_digest, identity_json, geometry, log, step)
                if arena is not None:
                    return arena
            return cls._create(path, identity_digest, identity_json, geometry, log, room_bytes, step)
        except OSError as error:
            raise StoreError("open", f"arena {path}", str(error)) from error

    @classmethod
    def _reopen(
        cls,
        path: Path,
        identity_digest: bytes,
        identity_json: str,
        geometry: ArenaGeometry,
        log: OpenLog,
        step: Step,
    ) -> Arena | None:
        """The arena that is there, or None once it has been set aside."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            reading = arena_file.read_header(fd)
            header = reading.header
            if header is None:
                why = f"both headers are damaged ({reading.problem})"
            elif header.identity_digest != identity_digest:
                why = f"it belongs to identity {header.identity_digest.hex()}, wanted {identity_digest.hex()}"
            elif header.geometry.page != geometry.page:
                why = f"its pages are {header.geometry.page}, wanted {geometry.page}"
            else:
                arena_file.repair_headers(fd, reading, header, identity_json, log)
                step("open: headers repaired")
                present = arena_file.restore_length(fd, header.geometry, path, log)
                step("open: length restored")
                os.utime(path)
                return cls(path, fd, header, present, step)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        arena_file.set_aside(path, why, log)
        step("open: set aside")
        return None

    @classmethod
    def _create(
        cls,
        path: Path,
        identity_digest: bytes,
        identity_json: str,
        geometry: ArenaGeometry,
        log: OpenLog,
        room_bytes: int | None,
        step: Step,
    ) -> Arena:
        def create() -> int:
            return arena_file.create_file(path, geometry, identity_digest, identity_json, step)

        aside = log.set_aside
        aside_bytes = aside.stat().st_size if aside is not None else 0
        if room_bytes is not None and aside_bytes + geometry.file_bytes > room_bytes:
            arena_file.delete_set_aside(log)
        try:
            fd = create()
        except StoreFullError:
            if log.set_aside is None:
                raise
            arena_file.delete_set_aside(log)
            fd = create()
        header = Header.of(geometry, identity_digest, identity_json)
        return cls(path, fd, header, geometry.file_bytes, step)

    def _attach_views(self) -> None:
        # Scalars go through a memoryview of native u64: CPython stores an item with one 8-byte move, where
        # struct's "<Q" would write byte by byte and could be torn by a kill.
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")
        page, count = self.geometry.page, self.geometry.slot_count
        table: npt.NDArray[Any] = np.ndarray((count,), page.record_dtype, self._map, self._base)
        self._table = table
        shape, strides = (count, self._payload_words), (self._record_bytes, 4)
        offset = self._base + PAYLOAD_OFFSET
        self._payloads: U32 = np.ndarray(shape, np.uint32, self._map, offset, strides)

    def _settle_generation(self) -> int:
        """Take the larger of the two blocks' generations, so that a cleared arena never comes back."""
        places = (GENERATION_OFFSET // 8, (REPLICA_OFFSET + GENERATION_OFFSET) // 8)
        # No arena is cleared 2^62 times: such a count is decayed memory.
        sane = [self._words[place] for place in places if self._words[place] < 1 << 62]
        if not sane:
            self.commits[:] = 0
        generation = max(sane, default=0)
        for place in places:
            self._words[place] = generation
        return generation

    # Columns of the record table, for vectorised work: strided views, valid until ``close``.

    @property
    def keys(self) -> U64:
        """(slot_count, 4) little-endian words of every record's key, free or not."""
        return self._column("key")

    @property
    def parents(self) -> U64:
        """(slot_count, 4) words of every record's parent key."""
        return self._column("parent")

    @property
    def groups(self) -> U16:
        """(slot_count,) groups."""
        column: U16 = self._table["group"]
        return column

    @property
    def token_counts(self) -> U32:
        """(slot_count,) tokens of each record."""
        column: U32 = self._table["token_count"]
        return column

    @property
    def generation(self) -> int:
        """How often everything was cleared: who saw another number has seen other pages."""
        return self._generation

    @property
    def commits(self) -> U64:
        """(slot_count,) commit words; 0 = free."""
        return self._column("commit")

    @property
    def last_uses(self) -> U64:
        """(slot_count,) ticks."""
        return self._column("last_use")

    @property
    def pins(self) -> U64:
        """(slot_count,) 0 or 1."""
        return self._column("pins")

    def _column(self, name: str) -> U64:
        column: U64 = self._table[name]
        return column

    def verified_slots(self, log: OpenLog) -> U32:
        """Slots whose records are valid, ascending; every other record is freed and counted in ``log``."""
        slots = np.flatnonzero(self.commits).astype(np.uint32)
        words = commit_words(self._payloads, self._weights, slots, self._generation)
        is_good = words == self.commits[slots]
        self.clear_records(slots[~is_good])
        log.dropped(DropReason.DAMAGED, int(np.count_nonzero(~is_good)))
        slots = slots[is_good]
        page_bytes_present = max(0, self._present_bytes - self.geometry.pages_offset)
        has_bytes = slots < page_bytes_present // self.geometry.page.slot_bytes
        self.clear_records(slots[~has_bytes])
        log.dropped(DropReason.TRUNCATED, int(np.count_nonzero(~has_bytes)))
        kept: U32 = slots[has_bytes]
        return kept

    def slot_offset(self, slot: Slot, rank: int) -> int:
        """Offset in the file of one rank's part of a slot. Raises StoreError when there is none such."""
        return self.geometry.slot_offset(slot, rank)

    def write_claim(self, slot: Slot, key: bytes, parent: bytes, group: int, flags: int, tokens: bytes) -> None:
        """Write what is known when a slot is claimed into its record, which must be free and stays free.

        ``tokens`` are native u32, no more than the geometry allows.
        """
        begin = self._base + slot * self._record_bytes
        self._words[self._base_word + slot * self._record_words + PINS_WORD] = 0
        RECORD_HEAD.pack_into(self._map, begin + PAYLOAD_OFFSET, key, parent, group, flags, len(tokens) // 4)
        self._step("claim: record head written")
        tokens_begin, end = begin + self._tokens_offset, begin + self._record_bytes
        self._map[tokens_begin:end] = tokens.ljust(end - tokens_begin, b"\0")
        self._step("claim: tokens written")

    def commit_record(self, slot: Slot, checksums: Sequence[bytes]) -> None:
        """Add the checksums to a claimed record and make it valid, the commit word last."""
        begin = self._base + slot * self._record_bytes + CHECKSUMS_OFFSET
        self._bytes[begin : begin + CHECKSUM_BYTES * len(checksums)] = b"".join(checksums)
        self._step("publish: checksums written")
        word = commit_word(self._payloads[slot], self._weights, slot, self._generation)
        self._words[self._base_word + slot * self._record_words + COMMIT_WORD] = word
        self._step("publish: committed")

    def write_record(self, entry: PageEntry) -> None:
        """Write a whole record at once: claim, checksums, commit word, and its mutable words."""
        tokens = array("I", entry.tokens).tobytes()
        self.write_claim(entry.slot, entry.key, entry.parent, entry.group, entry.flags, tokens)
        self.set_last_use(entry.slot, entry.last_use)
        self.set_pinned(entry.slot, entry.pinned)
        self.commit_record(entry.slot, entry.checksums)

    def clear_record(self, slot: Slot) -> None:
        """Free a record: one store."""
        self._words[self._base_word + slot * self._record_words + COMMIT_WORD] = 0
        self._step("clear: record freed")

    def clear_records(self, slots: U32) -> None:
        """Free many records, in no particular order."""
        self.commits[slots] = 0

    def clear_all(self) -> None:
        """Invalidate every record in one store, by raising the generation, and then free them."""
        self._generation += 1
        self._words[GENERATION_OFFSET // 8] = self._generation
        self._step("clear all: generation raised")
        self._words[(REPLICA_OFFSET + GENERATION_OFFSET) // 8] = self._generation
        self._step("clear all: replica raised")
        self.commits[:] = 0
        self._step("clear all: records freed")

    def set_last_use(self, slot: Slot, tick: int) -> None:
        """Note when a page was last used."""
        self._words[self._base_word + slot * self._record_words + LAST_USE_WORD] = tick

    def set_pinned(self, slot: Slot, pinned: bool) -> None:
        """Note an operator's pin: one store."""
        self._words[self._base_word + slot * self._record_words + PINS_WORD] = int(pinned)

    def is_committed(self, slot: Slot) -> bool:
        """Whether a record's commit word is set and right."""
        word = self._words[self._base_word + slot * self._record_words + COMMIT_WORD]
        return word == commit_word(self._payloads[slot], self._weights, slot, self._generation)

    def key(self, slot: int) -> bytes:
        """A record's key."""
        begin = self._base + slot * self._record_bytes + PAYLOAD_OFFSET
        return self._map[begin : begin + 32]

    def parent(self, slot: int) -> bytes:
        """A record's parent key."""
        begin = self._base + slot * self._record_bytes + PAYLOAD_OFFSET + 32
        return self._map[begin : begin + 32]

    def read_record(self, slot: Slot) -> PageEntry:
        """A record as it stands, whether it is committed or not; ``checksums`` is empty where it is not."""
        begin = self._base + slot * self._record_bytes
        key, parent, group, flags, count = RECORD_HEAD.unpack_from(self._map, begin + PAYLOAD_OFFSET)
        tokens_begin = begin + self._tokens_offset
        tokens = self._bytes[tokens_begin : tokens_begin + 4 * count].cast("I")
        sums = self._map[begin + CHECKSUMS_OFFSET : tokens_begin]
        first_word = self._base_word + slot * self._record_words
        ranks = range(self.geometry.page.ranks if self._words[first_word + COMMIT_WORD] else 0)
        return PageEntry(
            slot=slot,
            key=key,
            parent=parent,
            group=group,
            flags=flags,
            tokens=tuple(tokens),
            checksums=tuple(sums[16 * rank : 16 * (rank + 1)] for rank in ranks),
            last_use=self._words[first_word + LAST_USE_WORD],
            pinned=self._words[first_word + PINS_WORD] != 0,
        )

    def close(self) -> None:
        """Let go of the mapping and the descriptor; the file stays. Views taken before become invalid."""
        try:
            os.utime(self.path)
        except OSError:
            pass  # Only the order in which other arenas are deleted depends on it.
        del self._table, self._payloads
        self._words.release()
        self._bytes.release()
        try:
            self._map.close()
        except BufferError:
            pass  # Somebody still looks at a column; the mapping goes with the last view.
        os.close(self.fd)
