"""Byte layout of an arena file (format 1). Pure: no file is touched here.

Runs in the keeper; copiers import ``ArenaGeometry`` to find their part of a slot. One file per identity,
named after the first 16 bytes of its digest. All integers are little-endian.

    offset                        size
    0                             4096                header block
    4096                          4096                replica of the header block
    8192                          identity_area_bytes identity JSON (UTF-8), zero padded
    records_offset                slot_count x record_bytes   record table
    pages_offset (4096-aligned)   slot_count x slot_bytes     page data

Header block (``_HEADER``, then its checksum, then at the very end the one mutable word):

    0    8   magic "RKARENA\\0"
    8    4   format version u32
    12   4   record_bytes u32
    16   8   slot_count u64
    24   8   slot_bytes u64
    32   8   rank_bytes u64
    40   4   ranks u32
    44   4   page_tokens u32
    48   4   identity_area_bytes u32
    52   4   identity JSON length u32, in bytes
    56   8   file_bytes u64
    64   32  identity digest
    96   16  XXH3-128 of the identity JSON
    112  16  XXH3-128 of bytes 0..112
    4088 8   generation u64; the larger of the two blocks' counts (see ``Arena.clear_all``)

Record (``record_dtype``; offset 24 onwards is the payload that the commit word covers):

    0    8   commit word u64: 0 = free (see ``rekindle.store.commit_word``)
    8    8   last use u64, a tick                               mutable
    16   8   pins u64: 0 or 1                                   mutable
    24   32  key
    56   32  parent key; all zero = root
    88   2   group u16
    90   2   flags u16
    92   4   token count u32
    96   16  checksum XXH3-128, one per rank                    x ranks
    ..   4   token u32, zero where the page has fewer           x page_tokens
    ..       zero padding to a multiple of 8
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xxhash
from rekindle_plugins.contract.errors import StoreError

MAGIC = b"RKARENA\0"
FORMAT_VERSION = 1
BLOCK_BYTES = 4096
REPLICA_OFFSET = BLOCK_BYTES
IDENTITY_OFFSET = 2 * BLOCK_BYTES
IDENTITY_AREA_BYTES_MIN = 16 * 1024
IDENTITY_BYTES_MAX = 1 << 20
GENERATION_OFFSET = BLOCK_BYTES - 8
SLOT_COUNT_MAX = (1 << 31) - 1
DIGEST_BYTES = 32

COMMIT_WORD, LAST_USE_WORD, PINS_WORD = 0, 1, 2
PAYLOAD_OFFSET = 24
CHECKSUMS_OFFSET = 96

_HEADER = struct.Struct("<8sIIQQQIIIIQ32s16s")
RECORD_HEAD = struct.Struct("<32s32sHHI")
"""key, parent, group, flags, token count: the payload's fixed part."""


def aligned(value: int, alignment: int) -> int:
    """``value`` rounded up to a multiple of ``alignment``."""
    return -(-value // alignment) * alignment


def checksum(data: bytes) -> bytes:
    """XXH3-128, 16 bytes."""
    return xxhash.xxh3_128(data).digest()


@dataclass(frozen=True)
class PageGeometry:
    """What one page takes: ``ranks`` parts of ``rank_bytes`` each, and at most ``page_tokens`` tokens.

    Raises:
        StoreError: a number is out of its range.
    """

    rank_bytes: int
    ranks: int
    page_tokens: int

    def __post_init__(self) -> None:
        limits = {"rank_bytes": 1 << 40, "ranks": 1024, "page_tokens": 1 << 16}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 1 <= value <= limit:
                raise StoreError("lay out", "arena", f"{name} is {value}, wanted 1 to {limit}")

    @cached_property
    def rank_stride_bytes(self) -> int:
        """Distance between two ranks' parts of a slot: each part starts on a cache line."""
        return aligned(self.rank_bytes, 64)

    @cached_property
    def slot_bytes(self) -> int:
        """Size of a slot: whole memory pages where it is that large, else whole cache lines."""
        size = self.ranks * self.rank_stride_bytes
        return aligned(size, BLOCK_BYTES) if size >= BLOCK_BYTES else size

    @cached_property
    def tokens_offset(self) -> int:
        """Offset of the tokens in a record."""
        return CHECKSUMS_OFFSET + 16 * self.ranks

    @cached_property
    def record_bytes(self) -> int:
        """Size of a record: a multiple of 8, so that every commit word is an aligned store."""
        return aligned(self.tokens_offset + 4 * self.page_tokens, 8)

    @cached_property
    def record_dtype(self) -> np.dtype[Any]:
        """The record as a numpy structured type (the fixed part; checksums and tokens are read as bytes)."""
        fields = [
            ("commit", "<u8", 0),
            ("last_use", "<u8", 8),
            ("pins", "<u8", 16),
            ("key", "(4,)<u8", 24),
            ("parent", "(4,)<u8", 56),
            ("group", "<u2", 88),
            ("token_count", "<u4", 92),
        ]
        names, formats, offsets = zip(*fields, strict=True)
        return np.dtype(
            {
                "names": list(names),
                "formats": list(formats),
                "offsets": list(offsets),
                "itemsize": self.record_bytes,
            }  # type: ignore[arg-type, unused-ignore]
        )


@dataclass(frozen=True)
class ArenaGeometry:
    """A page geometry times a number of slots: where everything lies in the file.

    Raises:
        StoreError: ``slot_count`` or ``identity_area_bytes`` is out of its range.
    """

    page: PageGeometry
    slot_count: int
    identity_area_bytes: int = IDENTITY_AREA_BYTES_MIN

    def __post_init__(self) -> None:
        if not 1 <= self.slot_count <= SLOT_COUNT_MAX:
            problem = f"{self.slot_count} slots, wanted 1 to {SLOT_COUNT_MAX}"
            raise StoreError("lay out", "arena", problem)
        size = self.identity_area_bytes
        if size % BLOCK_BYTES or not IDENTITY_AREA_BYTES_MIN <= size <= IDENTITY_BYTES_MAX:
            raise StoreError("lay out", "arena", f"an identity area of {size} bytes")

    @classmethod
    def fitting(cls, page: PageGeometry, identity_json: str, room_bytes: int) -> ArenaGeometry | None:
        """The arena with the most slots in ``room_bytes``, or None if not even one fits.

        Raises:
            StoreError: the identity JSON is longer than 1 MiB.
        """
        area = identity_area_bytes(identity_json)
        # One block is set aside for aligning the page data; the division may undershoot by that block.
        rest = room_bytes - IDENTITY_OFFSET - area - BLOCK_BYTES
        slots = min(rest // (page.record_bytes + page.slot_bytes), SLOT_COUNT_MAX)
        return cls(page, slots, area) if slots >= 1 else None

    @cached_property
    def records_offset(self) -> int:
        """Offset of the record table in the file."""
        return IDENTITY_OFFSET + self.identity_area_bytes

    @cached_property
    def pages_offset(self) -> int:
        """Offset of the page data in the file; the keeper maps only what lies before."""
        return aligned(self.records_offset + self.slot_count * self.page.record_bytes, BLOCK_BYTES)

    @cached_property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.pages_offset + self.slot_count * self.page.slot_bytes

    def slot_offset(self, slot: int, rank: int = 0) -> int:
        """Offset in the file of one rank's part of a slot.

        Raises:
            StoreError: there is no such slot or rank.
        """
        if not (0 <= slot < self.slot_count and 0 <= rank < self.page.ranks):
            raise StoreError("locate", f"slot {slot} rank {rank}", f"outside {self}")
        return self.pages_offset + slot * self.page.slot_bytes + rank * self.page.rank_stride_bytes


@dataclass(frozen=True)
class Header:
    """The immutable part of a header block."""

    geometry: ArenaGeometry
    identity_digest: bytes
    identity_json_bytes: int
    identity_json_checksum: bytes

    @classmethod
    def of(cls, geometry: ArenaGeometry, identity_digest: bytes, identity_json: str) -> Header:
        """The header of a fresh arena.

        Raises:
            StoreError: the digest is not 32 bytes or the JSON does not fit the identity area.
        """
        data = identity_json.encode()
        if len(identity_digest) != DIGEST_BYTES:
            problem = f"digest of {len(identity_digest)} bytes, wanted {DIGEST_BYTES}"
            raise StoreError("lay out", "arena", problem)
        if len(data) > geometry.identity_area_bytes:
            problem = f"identity JSON of {len(data)} bytes in an area of {geometry.identity_area_bytes}"
            raise StoreError("lay out", "arena", problem)
        return cls(geometry, identity_digest, len(data), checksum(data))

    def pack(self) -> bytes:
        """The checksummed bytes at the start of a header block."""
        geometry, page = self.geometry, self.geometry.page
        body = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            page.record_bytes,
            geometry.slot_count,
            page.slot_bytes,
            page.rank_bytes,
            page.ranks,
            page.page_tokens,
            geometry.identity_area_bytes,
            self.identity_json_bytes,
            geometry.file_bytes,
            self.identity_digest,
            self.identity_json_checksum,
        )
        return body + checksum(body)

    @classmethod
    def unpack(cls, block: bytes) -> Header:
        """Read a header block.

        Raises:
            StoreError: it is short, damaged, of another format, or contradicts itself.
        """
        body = block[: _HEADER.size]
        stored_sum = block[_HEADER.size : HEADER_BYTES]
        if not body.startswith(MAGIC) or checksum(body) != stored_sum:
            raise StoreError("read", "arena header", "no magic, or its checksum does not match")
        fields = _HEADER.unpack(body)
        _, version, record_bytes, slot_count, slot_bytes, rank_bytes, ranks, page_tokens = fields[:8]
        area_bytes, json_bytes, file_bytes, digest, json_sum = fields[8:]
        if version != FORMAT_VERSION:
            raise StoreError("read", "arena header", f"format {version}, wanted {FORMAT_VERSION}")
        geometry = ArenaGeometry(PageGeometry(rank_bytes, ranks, page_tokens), slot_count, area_bytes)
        derived = (geometry.page.record_bytes, geometry.page.slot_bytes, geometry.file_bytes)
        if derived != (record_bytes, slot_bytes, file_bytes) or json_bytes > area_bytes:
            problem = f"sizes {(record_bytes, slot_bytes, file_bytes)}, wanted {derived}"
            raise StoreError("read", "arena header", problem)
        return cls(geometry, digest, json_bytes, json_sum)


HEADER_BYTES = _HEADER.size + 16
"""Length of what ``Header.pack`` returns."""


def identity_area_bytes(identity_json: str) -> int:
    """Size of the area that holds ``identity_json``: 16 KiB, or more where it is longer.

    Raises:
        StoreError: it is longer than 1 MiB.
    """
    size = len(identity_json.encode())
    if size > IDENTITY_BYTES_MAX:
        problem = f"identity JSON of {size} bytes, at most {IDENTITY_BYTES_MAX}"
        raise StoreError("lay out", "arena", problem)
    return max(IDENTITY_AREA_BYTES_MIN, aligned(size, BLOCK_BYTES))


def arena_name(identity_digest: bytes) -> str:
    """File name of the arena of an identity."""
    return f"{identity_digest.hex()[:32]}.arena"
