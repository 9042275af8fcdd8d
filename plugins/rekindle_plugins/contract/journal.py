"""The journal: a ring in shared memory in which the engine side records committed pages.

One writer (the engine's shim, under its own lock) and one reader (the keeper). The writer never waits: when the reader
lags by more than the ring's capacity, the oldest records are overwritten; the reader sees that by their numbers and
asks the shim to announce its live pages again. Nothing that is read here is trusted.

    offset  size  header field (4,096 bytes)             record (96 + 4 · page_tokens bytes, rounded up to 64)
         0     8  magic "RKJRNL01"                          0   8  number + 1; 0 while being written; stored last
         8     4  record bytes                              8   4  crc32 over bytes 12…end, started with the number
        12     4  capacity (records)                       12   4  page id
        16     4  page tokens                              16   8  epoch the page had when it was allocated
        20     4  reserved                                 24   2  group
        24     8  head: records appended   (engine)        26   2  flags (LAZY_ONLY)
        32     8  tail: records used       (keeper)        28   4  token count
        40     8  generation: cache resets (engine)        32  32  key
        48     8  steps started            (engine)        64  32  parent key (zeros: the chain's first page)
        56     8  steps finished           (engine)        96   …  tokens (u32 each)
        64     8  CLOCK_MONOTONIC ns of the last step
        72     8  requests with work outstanding
        80     8  nanoseconds the shim spent in the engine's steps
        88     8  pages committed
        96     8  CLOCK_MONOTONIC ns of the last step's start

The words from 48 to 72 are the engine's heartbeat. An engine that has work moves one of the first two with every turn,
also with a turn that finds nothing to run. It has work while a step is under way (more started than finished) or
requests are outstanding: those that run and those that wait, but none while the engine says that it has nothing to do
(it is paused, say). The words are written before what they tell of, so that an engine which hangs has told of its work.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from rekindle_plugins.contract.errors import ProtocolError, RecordError
from rekindle_plugins.contract.sharedmem import create_sealed, map_shared, require_sealed

MAGIC = b"RKJRNL01"
HEADER_BYTES = 4096
MAX_BYTES = 64 << 20
"""Of all records. What a reader touches of a ring becomes memory, though its writer may have written nothing there."""
ROOT = bytes(32)
LAZY_ONLY = 1
"""Flag: the key does not determine the engine's own hash, so the page is put back only at a request's demand."""

_HEADER = struct.Struct("<8sIIII")
_FIXED = struct.Struct("<IQHHI32s32s")  # page id … parent, at offset 12 of a record
_FIXED_BYTES = 96
# Indices of the header's u64 words.
_HEAD, _TAIL, _GENERATION, _STARTED, _FINISHED, _STEP_NS, _OUTSTANDING, _SHIM_NS, _COMMITTED, _START_NS = range(3, 13)


def record_bytes(page_tokens: int) -> int:
    return (_FIXED_BYTES + 4 * page_tokens + 63) // 64 * 64


@dataclass(frozen=True)
class Record:
    """One committed page as the engine side announced it."""

    page_id: int
    epoch: int
    group: int
    flags: int
    key: bytes
    parent: bytes
    tokens: tuple[int, ...]
    seen_at: float = field(default=0.0, compare=False)
    """CLOCK_MONOTONIC seconds when the reader first found it in the journal."""


@dataclass(frozen=True)
class Heartbeat:
    """What the journal's header tells of the engine's progress."""

    steps_started: int
    steps_finished: int
    last_step_ns: int
    outstanding: int
    shim_ns: int
    committed: int
    last_start_ns: int = 0

    @property
    def last_sign_ns(self) -> int:
        """CLOCK_MONOTONIC ns when a step last began or ended; 0 before the first one."""
        return max(self.last_step_ns, self.last_start_ns)

    @property
    def has_work(self) -> bool:
        """A step is under way, or requests want one."""
        return self.outstanding > 0 or self.steps_started > self.steps_finished


def pack_payload(
    page_id: int, epoch: int, group: int, flags: int, key: bytes, parent: bytes, tokens: Sequence[int]
) -> bytes:
    """The bytes of a record from offset 12 on. Kept by the shim so that announcing again is a copy."""
    return _FIXED.pack(page_id, epoch, group, flags, len(tokens), key, parent) + struct.pack(
        f"<{len(tokens)}I", *tokens
    )


def names_in(payload: bytes) -> tuple[bytes, bytes]:
    """How a payload from `pack_payload` names its page and that one's parent: group and key, as bytes."""
    group = payload[12:14]
    return group + payload[20:52], group + payload[52:84]


class JournalWriter:
    """Engine side. Not thread-safe: the caller serialises."""

    def __init__(self, page_tokens: int, capacity: int = 8192) -> None:
        """Of pages of very many tokens it holds fewer records: see MAX_BYTES."""
        self.record_bytes = record_bytes(page_tokens)
        self.capacity = capacity = min(capacity, MAX_BYTES // self.record_bytes)
        size = HEADER_BYTES + capacity * self.record_bytes
        self.fd = create_sealed("rekindle-journal", size)
        self._map = mmap.mmap(self.fd, size)
        _HEADER.pack_into(self._map, 0, MAGIC, self.record_bytes, capacity, page_tokens, 0)
        self._words = memoryview(self._map).cast("Q")
        self._head = 0

    def append(self, payload: bytes) -> None:
        """Writes one record from `pack_payload`. Overwrites the oldest when the ring is full; never waits."""
        number = self._head + 1
        offset = HEADER_BYTES + (self._head % self.capacity) * self.record_bytes
        words, index = self._words, offset >> 3
        words[index] = 0
        end = offset + 12 + len(payload)
        self._map[offset + 12 : end] = payload
        self._map[offset + 8 : offset + 12] = zlib.crc32(payload, number & 0xFFFFFFFF).to_bytes(4, "little")
        words[index] = number
        self._head = number
        words[_HEAD] = number

    @property
    def backlog(self) -> int:
        """Records the keeper says it has not used yet. Only an announcer paces itself by it; a step never does."""
        return max(0, self._head - min(self._head, self._words[_TAIL]))

    def raise_generation(self) -> int:
        """The cache was reset or the weights changed: every page committed before is void."""
        self._words[_GENERATION] += 1
        return self._words[_GENERATION]

    def step_started(self, outstanding: int) -> None:
        self._words[_OUTSTANDING] = outstanding
        self._words[_START_NS] = time.monotonic_ns()
        self._words[_STARTED] += 1

    def tell_outstanding(self, outstanding: int) -> None:
        """Between steps: requests came, or there is nothing left to do."""
        self._words[_OUTSTANDING] = outstanding

    def account(self, shim_ns: int, committed: int) -> None:
        """Adds to the shim's own cost, so that the sidecar can show what it takes from the engine."""
        self._words[_SHIM_NS] += shim_ns
        self._words[_COMMITTED] += committed

    def step_finished(self, outstanding: int, under_way: int = 0) -> None:
        """`under_way`: steps that were started and whose output is not there yet (asynchronous scheduling)."""
        self._words[_FINISHED] = self._words[_STARTED] - under_way
        self._words[_OUTSTANDING] = outstanding
        self._words[_STEP_NS] = time.monotonic_ns()

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self.fd)


@dataclass(frozen=True)
class Drained:
    """What one `drain` found: the records, how many were overwritten before being read, and the impossible ones."""

    records: list[Record]
    lost: int
    errors: list[RecordError]


class JournalReader:
    """Keeper side: reads forward from `start`, and believes nothing."""

    def __init__(self, fd: int, page_count: int, group_tokens: Sequence[int], *, from_head: bool = True) -> None:
        """Args: `group_tokens`: tokens of a full page, by group. Raises ProtocolError for memory that is no journal."""
        self._page_count = page_count
        self._group_tokens = tuple(group_tokens)
        size = require_sealed(fd, "journal")
        if size < HEADER_BYTES:
            raise ProtocolError("attach", "journal", f"{size} bytes are too few")
        magic, self._record_bytes, self._capacity, _, _ = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
        wanted = record_bytes(max(self._group_tokens))
        whole = HEADER_BYTES + self._capacity * self._record_bytes <= size
        bounded = self._capacity >= 1 and self._capacity * self._record_bytes <= MAX_BYTES
        if magic != MAGIC or self._record_bytes != wanted or not bounded or not whole:
            raise ProtocolError(
                "attach",
                "journal",
                f"magic {magic!r}, {self._capacity} records of {self._record_bytes} B in {size} B, wanted {wanted} B",
            )
        self._map = map_shared(fd, HEADER_BYTES + self._capacity * self._record_bytes, "journal")
        self._words = memoryview(self._map).cast("Q")
        self._held = 0
        self._tail = self._words[_HEAD] if from_head else 0
        self._marked, self._marked_at = self._tail, 0.0
        """Records up to this number were seen at this time, and not read yet."""
        self._words[_TAIL] = self._tail  # else an announcer would wait for what an earlier keeper had left unread

    @property
    def generation(self) -> int:
        return self._words[_GENERATION]

    @property
    def pending(self) -> int:
        return max(0, self._words[_HEAD] - self._tail)

    @property
    def oldest_seen_at(self) -> float | None:
        """When the oldest record that is still to be read was first seen; None where nothing is to be read."""
        head = self._words[_HEAD]
        self._mark(head, time.monotonic())
        return self._marked_at if head > self._tail else None

    def heartbeat(self) -> Heartbeat:
        words = self._words
        order = (_STARTED, _FINISHED, _STEP_NS, _OUTSTANDING, _SHIM_NS, _COMMITTED, _START_NS)
        return Heartbeat(*(words[i] for i in order))

    def hold(self, count: int) -> None:
        """So many of the records that were read are not used yet: an announcer waits for them as for unread ones."""
        self._held = count
        self._words[_TAIL] = max(0, self._tail - count)

    def drain(self, limit: int) -> Drained:
        """Reads up to `limit` records. Never blocks, never raises for bad content."""
        head, records, errors, lost = self._words[_HEAD], [], [], 0
        now = time.monotonic()
        if head < self._tail:
            errors.append(RecordError("read", "journal", f"its head went back from {self._tail} to {head}"))
            self._tail = head
        if head - self._tail > self._capacity:
            lost = head - self._tail - self._capacity
            self._tail = head - self._capacity
        for number in range(self._tail + 1, min(head, self._tail + limit) + 1):
            try:
                record = self._read(number, self._marked_at if number <= self._marked else now)
            except RecordError as error:
                errors.append(error)
            else:
                if record is None:
                    lost += 1
                else:
                    records.append(record)
            self._tail = number
        self._words[_TAIL] = max(0, self._tail - self._held)
        self._mark(head, now)
        return Drained(records, lost, errors)

    def _mark(self, head: int, now: float) -> None:
        """Notes what is seen and left unread. One mark is enough: it moves on when all up to it has been read."""
        if head > self._tail and not self._tail < self._marked <= head:
            self._marked, self._marked_at = head, now

    def _read(self, number: int, seen_at: float) -> Record | None:
        """None when the writer has overwritten the record (or is doing so)."""
        offset = HEADER_BYTES + ((number - 1) % self._capacity) * self._record_bytes
        seen = self._words[offset >> 3]
        if 0 < seen < number:
            raise RecordError("read", f"journal record {number}", f"it is numbered {seen}")
        if seen != number:
            return None  # before it is copied: the ring may be a hole
        raw = self._map[offset : offset + self._record_bytes]
        if int.from_bytes(raw[:8], "little") != number or self._words[offset >> 3] != number:
            return None
        page_id, epoch, group, flags, count, key, parent = _FIXED.unpack_from(raw, 12)
        end = _FIXED_BYTES + 4 * count
        if end > self._record_bytes:
            raise RecordError("read", f"journal record {number}", f"{count} tokens do not fit in it")
        if zlib.crc32(raw[12:end], number & 0xFFFFFFFF) != int.from_bytes(raw[8:12], "little"):
            raise RecordError("read", f"journal record {number}", "its checksum is wrong")
        if page_id >= self._page_count:
            raise RecordError("read", f"journal record {number}", f"page {page_id} of {self._page_count}")
        if group >= len(self._group_tokens) or count != self._group_tokens[group]:
            raise RecordError("read", f"journal record {number}", f"group {group} with {count} tokens")
        if key in (ROOT, parent):
            raise RecordError("read", f"journal record {number}", "its key is its parent or the root")
        tokens = struct.unpack_from(f"<{count}I", raw, _FIXED_BYTES)
        return Record(page_id, epoch, group, flags, key, parent, tokens, seen_at)

    def close(self) -> None:
        self._words.release()
        self._map.close()
