"""Byte layout of an export file (format 1): sessions that can be carried to another sidecar. Pure: no file is touched.

All integers are little-endian. The file has one header, any number of pages, parents before children, and one trailer.

    header (48 bytes, then the identity)
        0    8   magic "RKEXPORT"
        8    4   format version u32
        12   4   ranks u32
        16   8   rank_bytes u64            the three numbers of the arena's page geometry
        24   4   page_tokens u32
        28   4   identity JSON length u32, in bytes
        32   16  XXH3-128 of bytes 0..32 and the identity JSON
        48   ..  identity JSON (UTF-8, canonical)

    page (96 bytes, then checksums, tokens and data)
        0    4   magic "PAGE"
        4    2   group u16
        6    2   flags u16
        8    4   token count u32
        12   4   reserved, zero
        16   32  key
        48   32  parent key; zeros = root
        80   16  XXH3-128 of bytes 0..80, the checksums and the tokens
        96   16  checksum XXH3-128 of the data of each rank      x ranks
        ..   4   token u32                                       x token count
        ..       data: each rank's part, one after the other; their sizes are in the identity (`keeper.page_parts`)

    trailer (40 bytes)
        0    4   magic "TAIL"
        4    4   reserved, zero
        8    8   page count u64
        16   8   bytes before the trailer u64
        24   16  XXH3-128 of every header's and page's own checksum, in order, then of bytes 0..24

So every byte is covered once: data by the checksums of its page, these by the page's, and the order and number of pages
by the trailer's. That tells damage, not malice: a file is to be trusted as far as the store directory is.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import xxhash
from rekindle_plugins.contract.errors import RekindleError
from rekindle_plugins.contract.identity import Identity

from rekindle.keeper.page_parts import PageParts
from rekindle.keeper.refusals import ExportFileError
from rekindle.store.layout import IDENTITY_BYTES_MAX, PageGeometry
from rekindle.store.page import CHECKSUM_BYTES, ROOT_PARENT, PageEntry

VERSION = 1
MAGIC, PAGE_MAGIC, TAIL_MAGIC = b"RKEXPORT", b"PAGE", b"TAIL"
_HEADER = struct.Struct("<8sIIQII")
_PAGE = struct.Struct("<4sHHII32s32s")
_TAIL = struct.Struct("<4sIQQ")
HEADER_BYTES = _HEADER.size + CHECKSUM_BYTES
PAGE_BYTES = _PAGE.size + CHECKSUM_BYTES
TAIL_BYTES = _TAIL.size + CHECKSUM_BYTES
HINT = "the file is truncated or has been altered: export it again"


@dataclass(frozen=True)
class ExportHeader:
    """Whose pages they are, and how large."""

    identity: Identity
    page: PageGeometry
    parts: PageParts


@dataclass(frozen=True)
class ExportPage:
    """A page without its data."""

    key: bytes
    parent: bytes
    group: int
    flags: int
    tokens: tuple[int, ...]
    checksums: tuple[bytes, ...]


def checksum(*parts: bytes | memoryview) -> bytes:
    whole = xxhash.xxh3_128()
    for part in parts:
        whole.update(part)
    return bytes(whole.digest())


class Tail:
    """What the trailer will say, gathered while a file is written or read."""

    def __init__(self) -> None:
        self.page_count = 0
        self.size_bytes = 0
        self._whole = xxhash.xxh3_128()

    def add(self, own_checksum: bytes, size_bytes: int, pages: int = 0) -> None:
        """A header or page of so many bytes has gone by."""
        self._whole.update(own_checksum)
        self.size_bytes += size_bytes
        self.page_count += pages

    def pack(self) -> bytes:
        body = _TAIL.pack(TAIL_MAGIC, 0, self.page_count, self.size_bytes)
        whole = self._whole.copy()
        whole.update(body)
        return body + bytes(whole.digest())


def pack_header(identity: Identity, page: PageGeometry) -> tuple[bytes, bytes]:
    """The header with its identity, and its checksum."""
    text = identity.to_text().encode()
    body = _HEADER.pack(MAGIC, VERSION, page.ranks, page.rank_bytes, page.page_tokens, len(text))
    own = checksum(body, text)
    return body + own + text, own


def identity_bytes(header: bytes, subject: str) -> int:
    """How many bytes of identity follow the header's first `HEADER_BYTES`. Raises ExportFileError."""
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        raise ExportFileError("import", subject, "it is no export file of Rekindle's", "check the path")
    _, version, _, _, _, count = _HEADER.unpack_from(header)
    if version != VERSION:
        hint = "use the Rekindle that wrote it, or a newer one"
        raise ExportFileError("import", subject, f"it has format {version}, this sidecar reads {VERSION}", hint)
    if count > IDENTITY_BYTES_MAX:
        raise ExportFileError("import", subject, f"an identity of {count} bytes", HINT)
    return int(count)


def unpack_header(header: bytes, text: bytes, subject: str) -> tuple[ExportHeader, bytes]:
    """The header, and its checksum. Raises ExportFileError."""
    _, _, ranks, rank_bytes, page_tokens, count = _HEADER.unpack_from(header)
    own = checksum(header[: _HEADER.size], text)
    if len(text) != count or own != header[_HEADER.size : HEADER_BYTES]:
        raise ExportFileError("import", subject, "its header's checksum does not match", HINT)
    try:
        fields: Any = json.loads(text)
        identity = Identity.from_json(fields)
        page = PageGeometry(rank_bytes, ranks, page_tokens)
        return ExportHeader(identity, page, PageParts.of_identity(identity, page)), own
    except (RekindleError, ValueError, RecursionError) as error:
        raise ExportFileError("import", subject, f"its header cannot be: {error}", HINT) from error


def pack_page(entry: PageEntry) -> tuple[bytes, bytes]:
    """A page up to its data, and its checksum."""
    body = _PAGE.pack(PAGE_MAGIC, entry.group, entry.flags, len(entry.tokens), 0, entry.key, entry.parent)
    rest = b"".join(entry.checksums) + struct.pack(f"<{len(entry.tokens)}I", *entry.tokens)
    own = checksum(body, rest)
    return body + own + rest, own


def rest_bytes(head: bytes, header: ExportHeader, subject: str) -> int:
    """How many bytes of checksums and tokens follow a page's first `PAGE_BYTES`. Raises ExportFileError."""
    _, group, _, count, _, _, _ = _PAGE.unpack_from(head)
    if count > header.page.page_tokens or group >= header.parts.group_count:
        problem = f"a page of group {group} with {count} tokens"
        raise ExportFileError("import", subject, problem, HINT)
    return CHECKSUM_BYTES * header.page.ranks + 4 * int(count)


def unpack_page(head: bytes, rest: bytes, header: ExportHeader, subject: str) -> tuple[ExportPage, bytes]:
    """The page, and its checksum. Raises ExportFileError."""
    _, group, flags, count, _, key, parent = _PAGE.unpack_from(head)
    own = checksum(head[: _PAGE.size], rest)
    if own != head[_PAGE.size : PAGE_BYTES]:
        raise ExportFileError("import", subject, "a page's header does not match its checksum", HINT)
    if key in (ROOT_PARENT, parent):
        raise ExportFileError("import", subject, "a page's key is its parent, or the root", HINT)
    sums = tuple(rest[CHECKSUM_BYTES * r : CHECKSUM_BYTES * (r + 1)] for r in range(header.page.ranks))
    tokens = struct.unpack_from(f"<{count}I", rest, CHECKSUM_BYTES * header.page.ranks)
    return ExportPage(key, parent, group, flags, tokens, sums), own
