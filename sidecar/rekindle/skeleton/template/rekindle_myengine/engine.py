"""A stand-in for your engine: paged, prefix-cached, deterministic, and tiny. Delete it when your own is plugged in.

The "KV" of a token is 16 bytes a layer, computed from the weights, the token and the KV of the token before it, as it
lies in memory; the next token is computed from every byte of the sequence. So one wrong byte is another answer.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

LAYERS, KV_BYTES, STEP_TOKENS, VOCABULARY = 2, 16, 6, 256
ROOT = bytes(32)


class Hooks(Protocol):
    """The engine's seam for plugins. Yours will look different; it must have a place for each of these."""

    def ready(self, engine: TinyEngine) -> None: ...
    def pages_allocated(self, page_ids: Sequence[int]) -> None: ...
    def page_complete(self, page_id: int, key: bytes, parent: bytes, tokens: Sequence[int]) -> None: ...
    def step_done(self, outstanding: int) -> None: ...
    def cache_reset(self) -> None: ...
    def close(self) -> None: ...


@dataclass
class Request:
    request_id: str
    tokens: list[int]
    """The prompt, and what was generated."""
    prompt_count: int
    max_tokens: int
    pages: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    computed: int = 0
    cached_tokens: int = 0
    is_admitted: bool = False


class TinyEngine:
    """Serves one request at a time, a few tokens a step."""

    def __init__(self, weights: bytes, page_count: int, page_tokens: int, hooks: Hooks) -> None:
        self.weights, self.page_count, self.page_tokens, self.hooks = weights, page_count, page_tokens, hooks
        self.page_bytes = page_tokens * KV_BYTES
        """Of one layer; the layers lie one behind the other, each with all pages."""
        self.memory_bytes = LAYERS * page_count * self.page_bytes
        self.memory_fd = os.memfd_create("myengine-kv", os.MFD_CLOEXEC)
        os.truncate(self.memory_fd, self.memory_bytes)
        self.memory = mmap.mmap(self.memory_fd, self.memory_bytes)
        self.blank = list(range(page_count))
        self.page_of: OrderedDict[bytes, int] = OrderedDict()
        """Pages that can be found by key, the longest unused first."""
        self.queue: deque[Request] = deque()
        self.done: dict[str, Request] = {}

    def start(self) -> None:
        self.hooks.ready(self)

    def submit(self, request_id: str, tokens: Sequence[int], max_tokens: int) -> None:
        self.queue.append(Request(request_id, list(tokens), len(tokens), max_tokens))

    def step(self) -> bool:
        if self.queue:
            self._advance(self.queue[0])
            self.hooks.step_done(len(self.queue))
        return bool(self.queue)

    def reset_prefix_cache(self) -> None:
        """Between requests only: a real engine would let the running ones start over."""
        self.blank += self.page_of.values()
        self.page_of.clear()
        self.hooks.cache_reset()

    def close(self) -> None:
        self.hooks.close()

    def _advance(self, request: Request) -> None:
        if not request.is_admitted:
            self._take_cached_prefix(request)
        end = min(request.computed + STEP_TOKENS, len(request.tokens))
        missing = -(-end // self.page_tokens) - len(request.pages)
        if missing > 0:
            fresh = [self._take_page(request) for _ in range(missing)]
            self.hooks.pages_allocated(fresh)  # before a byte of them is written
            request.pages += fresh
        for position in range(request.computed, end):
            self._compute(request, position)
        first, request.computed = request.computed // self.page_tokens, end
        for index in range(first, end // self.page_tokens):
            self._complete(request, index)  # after its last byte was written
        if end == len(request.tokens):
            request.tokens.append(self._sample(request))
            if len(request.tokens) == request.prompt_count + request.max_tokens:
                self._finish(request)

    def _take_cached_prefix(self, request: Request) -> None:
        request.is_admitted = True
        for index in range((len(request.tokens) - 1) // self.page_tokens):
            key = self._key(request, index)
            if key not in self.page_of:
                break
            request.pages.append(self.page_of[key])
            request.keys.append(key)
        request.computed = request.cached_tokens = len(request.pages) * self.page_tokens

    def _take_page(self, request: Request) -> int:
        if self.blank:
            return self.blank.pop()
        key = next(key for key in self.page_of if self.page_of[key] not in request.pages)
        return self.page_of.pop(key)

    def _key(self, request: Request, index: int) -> bytes:
        """Covers every token up to the page's end, because it covers the key before it."""
        parent = request.keys[index - 1] if index else ROOT
        return hashlib.sha256(parent + bytes(self._slice(request, index))).digest()

    def _slice(self, request: Request, index: int) -> list[int]:
        return request.tokens[index * self.page_tokens : (index + 1) * self.page_tokens]

    def _complete(self, request: Request, index: int) -> None:
        key = self._key(request, index)
        request.keys.append(key)
        if key not in self.page_of:
            self.page_of[key] = request.pages[index]
            parent = request.keys[index - 1] if index else ROOT
            self.hooks.page_complete(request.pages[index], key, parent, self._slice(request, index))

    def _place(self, request: Request, layer: int, position: int) -> slice:
        page = request.pages[position // self.page_tokens]
        start = (layer * self.page_count + page) * self.page_bytes + position % self.page_tokens * KV_BYTES
        return slice(start, start + KV_BYTES)

    def _compute(self, request: Request, position: int) -> None:
        for layer in range(LAYERS):
            before = self.memory[self._place(request, layer, position - 1)] if position else b""
            token = bytes([layer, request.tokens[position]])
            kv = hashlib.blake2b(self.weights + token + before, digest_size=KV_BYTES).digest()
            self.memory[self._place(request, layer, position)] = kv

    def _sample(self, request: Request) -> int:
        state = hashlib.blake2b(self.weights)
        for position in range(request.computed):
            for layer in range(LAYERS):
                state.update(self.memory[self._place(request, layer, position)])
        return state.digest()[0]

    def _finish(self, request: Request) -> None:
        """Pages with a key stay findable, children before parents when it comes to evicting; the others are blank."""
        self.done[request.request_id] = self.queue.popleft()
        kept = [key for key in request.keys if self.page_of.get(key) in request.pages]
        for key in reversed(kept):
            self.page_of.move_to_end(key)
        self.blank += set(request.pages) - {self.page_of[key] for key in kept}
