"""Which page is whose: allocation, prefix caching by key, reference counts, eviction.

Lives in the engine process, on the engine thread only; a plugin may call it from inside its hooks.

A page is in exactly one of three conditions:

    blank      nobody holds it and it has no key
    held       one or more holders; it may have a key already, and then others may share it
    evictable  nobody holds it, but it has a key and can be found again; the longest unused goes first

Keys chain: `page_key` of a page covers every token from position 0 to the page's end, so equal keys mean equal
KV bytes for one model and one geometry.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NewType

PageId = NewType("PageId", int)

ROOT_PARENT = bytes(32)
"""The parent of a sequence's first page."""


def page_key(parent: bytes, tokens: Sequence[int], cache_salt: str = "") -> bytes:
    """sha256(parent || tokens as little-endian u32 || salt), where only a first page takes the salt."""
    packed = struct.pack(f"<{len(tokens)}I", *tokens)
    salt = cache_salt.encode() if parent == ROOT_PARENT else b""
    return hashlib.sha256(parent + packed + salt).digest()


class CachedPage(NamedTuple):
    """A full page whose KV is complete, under its key."""

    page_id: PageId
    key: bytes
    parent: bytes
    tokens: tuple[int, ...]


class NoFreePages(Exception):
    """More pages were asked for than are blank or evictable."""


class PagePool:
    """All pages of the cache. Not thread-safe: engine thread only.

    An eager restore is `take(n)`, fill the pages, `register` those that verified, `release` them all: what was
    registered becomes evictable, the rest blank again. Whoever takes pages raises their fence before writing.
    """

    def __init__(self, page_count: int) -> None:
        self.page_count = page_count
        self._blank = [PageId(page_id) for page_id in reversed(range(page_count))]
        self._holders = [0] * page_count
        self._cached: dict[PageId, CachedPage] = {}
        self._by_key: dict[bytes, PageId] = {}
        self._evictable: OrderedDict[PageId, None] = OrderedDict()

    @property
    def blank_count(self) -> int:
        """Pages that can be taken at no cost to the prefix cache."""
        return len(self._blank)

    @property
    def free_count(self) -> int:
        """Pages that can be taken at all: blank and evictable."""
        return len(self._blank) + len(self._evictable)

    @property
    def held_count(self) -> int:
        return self.page_count - self.free_count

    def take(self, count: int) -> list[PageId]:
        """Hold `count` pages for one holder: blank ones first, then the longest unused, which lose their keys.

        Raises NoFreePages, and then nothing was taken.
        """
        if count > self.free_count:
            raise NoFreePages(f"take {count} pages: only {self.free_count} of {self.page_count} are free")
        taken = [self._blank.pop() if self._blank else self._evict() for _ in range(count)]
        for page_id in taken:
            self._holders[page_id] = 1
        return taken

    def match(self, keys: Sequence[bytes]) -> list[PageId]:
        """The pages of the longest cached prefix of `keys`, each held once more. Release them when done."""
        matched = []
        for key in keys:
            page_id = self._by_key.get(key)
            if page_id is None:
                break
            self._holders[page_id] += 1
            self._evictable.pop(page_id, None)
            matched.append(page_id)
        return matched

    def release(self, page_ids: Sequence[PageId]) -> None:
        """Give up one hold on each page. Pages go in prefix order; the last is evicted first, so that no page
        outlives the parent that makes it reachable.
        """
        for page_id in reversed(page_ids):
            if self._holders[page_id] < 1:
                raise ValueError(f"release page {page_id}: nobody holds it")
            self._holders[page_id] -= 1
            if self._holders[page_id] == 0:
                if page_id in self._cached:
                    self._evictable[page_id] = None
                else:
                    self._blank.append(page_id)

    def register(self, page_id: PageId, key: bytes, parent: bytes, tokens: Sequence[int]) -> bool:
        """Let a held page, full and complete, be found under `key`.

        False when another page already has that key: this one stays its holder's alone, blank once released.
        """
        if self._holders[page_id] < 1 or page_id in self._cached:
            raise ValueError(f"register page {page_id}: it must be held and without a key")
        if key in self._by_key:
            return False
        self._cached[page_id] = CachedPage(page_id, key, parent, tuple(tokens))
        self._by_key[key] = page_id
        return True

    def cached(self) -> Iterator[CachedPage]:
        """Every page with a key, held or evictable: what a plugin announces to a sidecar that starts afresh."""
        return iter(list(self._cached.values()))

    def has(self, key: bytes) -> bool:
        return key in self._by_key

    def forget_all(self) -> None:
        """Drop every key. Held pages stay with their holders."""
        self._cached.clear()
        self._by_key.clear()
        self._blank.extend(self._evictable)
        self._evictable.clear()

    def _evict(self) -> PageId:
        page_id, _ = self._evictable.popitem(last=False)
        del self._by_key[self._cached.pop(page_id).key]
        return page_id
