"""Ended requests' blocks that the engine keeps until they are copied (its "asynchronous saving").

The engine pins a block by putting it into its prefix cache. Where the cache has another block with the same content,
that one is pinned, and the request's own is free, whatever we answered. So a block is only kept when it was found in
the cache, or when its key was never computed before in this engine's life: then the cache cannot know another. All
other blocks are let go of at once; what they hold was announced before, and is mostly stored already.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

HOLD_S = 2.0
"""How long an ended request's blocks are kept for a sidecar that does not copy them."""
SEEN_BITS = 1 << 24
_WORDS = struct.Struct("<2I")


class Seen:
    """Which keys were there before. May say so of one that was not; never the other way round. 2 MiB."""

    def __init__(self) -> None:
        self._bits = bytearray(SEEN_BITS // 8)

    def add(self, key: bytes) -> bool:
        """Whether the key was there before, perhaps."""
        was_there = True
        for word in _WORDS.unpack_from(key):
            place, bit = divmod(word % SEEN_BITS, 8)
            was_there = was_there and bool(self._bits[place] & 1 << bit)
            self._bits[place] |= 1 << bit
        return was_there


@dataclass(frozen=True)
class _Held:
    pages: tuple[int, ...]
    keys: tuple[bytes, ...]
    until: float


class Holds:
    """By request. `is_stored` says whether the store has a key, `let_go` fences blocks off that nobody holds."""

    def __init__(self, is_stored: Callable[[bytes], bool], let_go: Callable[[Sequence[int]], None]) -> None:
        self._is_stored = is_stored
        self._let_go = let_go
        self._seen = Seen()
        self._only: dict[bytes, int] = {}
        """The one block that a key was computed into, while a request has it."""
        self._found: dict[bytes, int] = {}
        """The block that the engine's cache has for a key, while a request has it."""
        self._held: dict[int, _Held] = {}
        self._reportable: set[int] = set()

    def found(self, key: bytes, page_id: int) -> None:
        """A request was given this page out of the engine's cache."""
        self._seen.add(key)
        self._found[key] = page_id

    def computed(self, key: bytes, page_id: int) -> None:
        """A request has this page in this block, or is about to. Called before the engine's cache can know of it."""
        if not self._seen.add(key):
            self._only[key] = page_id
        elif self._only.get(key, page_id) != page_id:
            del self._only[key]

    def end(self, request_id: int, pages: Sequence[int], keys: Iterable[bytes], is_linked: bool) -> bool:
        """A request with these blocks has ended; `keys` are those of its first ones. True: some are kept."""
        kept: dict[int, bytes] = {}
        for page_id, key in zip(pages, keys, strict=False):
            is_cached = page_id in (self._only.get(key), self._found.get(key))
            for table in (self._only, self._found):
                if table.get(key) == page_id:
                    del table[key]
            if is_cached and not self._is_stored(key):
                kept[page_id] = key
        if not is_linked or request_id in self._held:
            kept = {}
        self._let_go([page_id for page_id in pages if page_id not in kept])
        if kept:
            self._held[request_id] = _Held(tuple(kept), tuple(kept.values()), time.monotonic() + HOLD_S)
        return bool(kept)

    def expire(self, is_linked: bool) -> None:
        """Lets go of what is stored by now, or was not in time. Before every step, for a step may take free blocks."""
        now = time.monotonic()
        for request_id, held in self._held.items():
            if held.pages and (not is_linked or now >= held.until or all(map(self._is_stored, held.keys))):
                self._held[request_id] = _Held((), (), now)
                self._let_go(held.pages)

    def report(self, asked: Iterable[int]) -> list[int]:
        """Which of the requests that the engine has ever asked about may be freed now.

        One at a time: some versions let go of the first only.
        """
        self._reportable.update(asked)
        for request_id in sorted(self._reportable):
            held = self._held.get(request_id)
            if held is None or not held.pages:
                self._held.pop(request_id, None)
                self._reportable.discard(request_id)
                return [request_id]
        return []
