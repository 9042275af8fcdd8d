"""What is right: the tokens and the KV bytes of an engine that was never killed and never heard of Rekindle."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from itertools import count

from nano_engine.blocks import ROOT_PARENT, page_key
from nano_engine.cache import Geometry, KVCache
from nano_engine.engine import Engine, EngineConfig
from nano_engine.request import Request

POOL_PAGES = 4096


def prompt(length: int, seed: int = 0) -> list[int]:
    source = random.Random(f"prompt {seed}")
    return [source.randrange(256) for _ in range(length)]


def chain(tokens: Sequence[int], page_tokens: int = 16) -> list[bytes]:
    """The keys of all full pages of a sequence."""
    keys = []
    for start in range(0, len(tokens) - page_tokens + 1, page_tokens):
        keys.append(page_key(keys[-1] if keys else ROOT_PARENT, tokens[start : start + page_tokens]))
    return keys


def computed_pages(prompt_count: int, seen_count: int, page_tokens: int = 16) -> int:
    """Full pages that an engine has certainly committed when its client has seen so many tokens.

    The last token seen has no KV yet: it was only sampled.
    """
    return (prompt_count + seen_count - 1) // page_tokens if seen_count else 0


class Reference:
    """Runs in the test process. `tokens` and `page` may be called from any thread."""

    def __init__(self, page_tokens: int = 16, seed: int = 0) -> None:
        config = EngineConfig(pages=POOL_PAGES, page_tokens=page_tokens, seed=seed)
        self.page_tokens = page_tokens
        self._engine = Engine(config)
        self._engine.start()
        geometry = self._engine.cache.geometry
        self._kv = KVCache(
            Geometry(geometry.pages, geometry.layers, page_tokens, geometry.heads, geometry.head_dim), "reference"
        )
        self._pages: dict[bytes, list[int]] = {}
        self._known: dict[tuple[tuple[int, ...], int], list[int]] = {}
        self._lock = threading.Lock()
        self._ids = count()

    def tokens(self, prompt_tokens: Sequence[int], max_tokens: int = 32) -> list[int]:
        """What an uninterrupted engine answers."""
        name = (tuple(prompt_tokens), max_tokens)
        with self._lock:
            if name not in self._known:
                request = Request(f"reference-{next(self._ids)}", list(prompt_tokens), max_tokens)
                self._engine.submit(request)
                while self._engine.has_requests:
                    self._engine.step()
                self._known[name] = request.tokens[request.prompt_count :]
            return self._known[name]

    def page(self, tokens: Sequence[int]) -> bytes:
        """The KV bytes of the last page of a sequence of whole pages."""
        with self._lock:
            ids: list[int] = []
            for start, key in enumerate(chain(tokens, self.page_tokens)):
                known = self._pages.get(key)
                if known is None:
                    known = [*ids, self._compute(ids, tokens, start * self.page_tokens)]
                    self._pages[key] = known
                ids = known
            return bytes(self._kv.page(ids[-1]))

    def _compute(self, ancestors: Sequence[int], tokens: Sequence[int], start: int) -> int:
        page_id = len(self._pages)
        assert page_id < POOL_PAGES, "the reference's cache is full"
        part = tokens[start : start + self.page_tokens]
        self._engine.model.forward(self._kv, [*ancestors, page_id], start, list(part))
        return page_id

    def forget_pages(self) -> None:
        """Makes room when many different sequences have been asked for."""
        with self._lock:
            self._pages.clear()

    @property
    def page_count(self) -> int:
        return len(self._pages)
