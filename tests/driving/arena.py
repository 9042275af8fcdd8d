"""Reading a store's arenas from outside, also while a sidecar writes to them, and judging every page in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from nano_engine.blocks import ROOT_PARENT, page_key
from rekindle.store.arena_file import read_header, read_identity
from rekindle.store.commit_word import commit_word, make_weights
from rekindle.store.layout import (
    BLOCK_BYTES,
    CHECKSUMS_OFFSET,
    GENERATION_OFFSET,
    PAYLOAD_OFFSET,
    RECORD_HEAD,
    ArenaGeometry,
)

from driving.reference import Reference


@dataclass(frozen=True)
class StoredPage:
    """One committed page of an arena file, as it lay there at one moment."""

    path: Path
    slot: int
    offset: int
    """Of its bytes in the file."""
    key: bytes
    parent: bytes
    tokens: tuple[int, ...]
    checksum: bytes
    data: bytes

    @property
    def is_whole(self) -> bool:
        return xxhash.xxh3_128_digest(self.data) == self.checksum


def arena_paths(store_dir: Path) -> list[Path]:
    return sorted(store_dir.glob("*.arena"))


def stored_pages(store_dir: Path) -> dict[bytes, StoredPage]:
    """Every page that a sidecar would find there now, by key."""
    found: dict[bytes, StoredPage] = {}
    for path in arena_paths(store_dir):
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # deleted a moment ago, for another arena's sake
            continue
        try:
            found |= {page.key: page for page in _pages_of(fd, path)}
        finally:
            os.close(fd)
    return found


def identity_text(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        header = read_header(fd).header
        return (read_identity(fd, header) if header else None) or ""
    finally:
        os.close(fd)


def _pages_of(fd: int, path: Path) -> list[StoredPage]:
    header = read_header(fd).header
    if header is None:
        return []
    geometry = header.geometry
    size = geometry.page.record_bytes
    weights = make_weights((size - PAYLOAD_OFFSET) // 4)
    table = os.pread(fd, geometry.slot_count * size, geometry.records_offset)
    generation = _generation(fd)
    found = []
    for slot in range(geometry.slot_count):
        record = table[slot * size : (slot + 1) * size]
        word = int.from_bytes(record[:8], "little")
        payload = np.frombuffer(record, np.uint32, offset=PAYLOAD_OFFSET)
        if not word or word != commit_word(payload, weights, slot, generation):
            continue
        page = _page(fd, path, geometry, slot, record)
        # What was let go of while we read it tells nothing.
        if os.pread(fd, 8, geometry.records_offset + slot * size) == record[:8] and generation == _generation(fd):
            found.append(page)
    return found


def _page(fd: int, path: Path, geometry: ArenaGeometry, slot: int, record: bytes) -> StoredPage:
    key, parent, _, _, token_count = RECORD_HEAD.unpack_from(record, PAYLOAD_OFFSET)
    tokens = np.frombuffer(record, np.uint32, token_count, geometry.page.tokens_offset)
    offset = geometry.slot_offset(slot)
    return StoredPage(
        path,
        slot,
        offset,
        key,
        parent,
        tuple(tokens.tolist()),
        record[CHECKSUMS_OFFSET : CHECKSUMS_OFFSET + 16],
        os.pread(fd, geometry.page.rank_bytes, offset),
    )


def _generation(fd: int) -> int:
    return max(int.from_bytes(os.pread(fd, 8, block * BLOCK_BYTES + GENERATION_OFFSET), "little") for block in (0, 1))


def damage(pages: dict[bytes, StoredPage], reference: Reference) -> dict[bytes, str]:
    """What is wrong with stored pages, by key: torn, orphaned, misnamed, or not the KV of their tokens."""
    wrong: dict[bytes, str] = {}
    for page in pages.values():
        where = f"slot {page.slot} of {page.path.name}"
        tokens = _tokens_to(page, pages)
        if tokens is None:
            wrong[page.key] = f"{where}: its parent is not stored"
        elif page.key != page_key(page.parent, page.tokens):
            wrong[page.key] = f"{where}: its key is not that of its tokens"
        elif not page.is_whole:
            wrong[page.key] = f"{where}: its checksum does not match its bytes"
        elif page.data != reference.page(tokens):
            wrong[page.key] = f"{where}: its bytes are not the KV of its tokens"
    return wrong


def find_damage(store_dir: Path, reference: Reference, looks: int = 3) -> list[str]:
    """Sentences about pages that are wrong each time one looks: a page may be evicted while it is being read."""
    wrong = damage(stored_pages(store_dir), reference)
    for _ in range(looks - 1):
        if not wrong:
            break
        again = damage(stored_pages(store_dir), reference)
        wrong = {key: text for key, text in wrong.items() if again.get(key) == text}
    return sorted(wrong.values())


def _tokens_to(page: StoredPage, pages: dict[bytes, StoredPage]) -> list[int] | None:
    """The tokens from position 0 to the page's end; None where an ancestor is missing."""
    parts = [page.tokens]
    while page.parent != ROOT_PARENT:
        parent = pages.get(page.parent)
        if parent is None:
            return None
        page = parent
        parts.append(page.tokens)
    return [token for part in reversed(parts) for token in part]
