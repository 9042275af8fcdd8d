"""Driving a nano engine step by step: small engines, prompts, and a plugin that keeps pages in a dict."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import count

from nano_engine.blocks import CachedPage, PageId, PagePool
from nano_engine.cache import KVCache
from nano_engine.engine import Engine, EngineConfig
from nano_engine.hooks import CacheHooks, LoadReport, NoHooks
from nano_engine.request import Request
from nano_engine.scheduler import Limits

PAGE_TOKENS = 8
_ids = count()


def small_engine(
    pages: int = 64, step_tokens: int = 256, max_running: int = 16, hooks: CacheHooks | None = None
) -> Engine:
    limits = Limits(step_tokens, max_running)
    engine = Engine(EngineConfig(limits=limits, pages=pages, page_tokens=PAGE_TOKENS), hooks)
    engine.start()
    return engine


def prompt(length: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(256) for _ in range(length)]


def request(tokens: Sequence[int], max_tokens: int = 12, **fields: object) -> Request:
    return Request(f"r{next(_ids)}", list(tokens), max_tokens, **fields)  # type: ignore[arg-type]


def drain(engine: Engine, turns: int = 20_000) -> None:
    """Step until no request is left."""
    for _ in range(turns):
        if not engine.has_requests:
            return
        engine.step()
    raise AssertionError("the engine did not finish")


def serve(engine: Engine, requests: Iterable[Request]) -> list[list[int]]:
    """Run requests together; returns what each generated."""
    requests = list(requests)
    for one in requests:
        engine.submit(one)
    drain(engine)
    return [one.tokens[one.prompt_count :] for one in requests]


def generate(engine: Engine, tokens: Sequence[int], max_tokens: int = 12, **fields: object) -> list[int]:
    return serve(engine, [request(tokens, max_tokens, **fields)])[0]


class DictHooks(NoHooks):
    """Keeps the bytes of every complete page; loads them back `delay` polls after being asked."""

    def __init__(self, stored: dict[bytes, bytes] | None = None, delay: int = 2) -> None:
        self.stored = {} if stored is None else stored
        self.delay = delay
        self.completed: list[CachedPage] = []
        self.allocated: list[PageId] = []
        self.good_limit: int | None = None
        self.in_doubt = False
        self.quarantined: list[PageId] = []
        self.loads: dict[str, tuple[int, Sequence[CachedPage]]] = {}
        self.calls: list[str] = []

    def ready(self, cache: KVCache, blocks: PagePool) -> None:
        self.cache, self.blocks = cache, blocks

    def pages_allocated(self, page_ids: Sequence[PageId]) -> None:
        self.calls.append("pages_allocated")
        self.allocated += page_ids

    def lookup(self, keys: Sequence[bytes], have: int) -> int:
        further = 0
        while have + further < len(keys) and keys[have + further] in self.stored:
            further += 1
        return further

    def load(self, request_id: str, pages: Sequence[CachedPage]) -> None:
        self.calls.append("load")
        assert {page.page_id for page in pages} <= set(self.allocated)
        self.loads[request_id] = (self.delay, pages)

    def poll_loads(self) -> list[LoadReport]:
        reports = []
        for request_id, (delay, pages) in list(self.loads.items()):
            if delay:
                self.loads[request_id] = (delay - 1, pages)
                continue
            del self.loads[request_id]
            good = len(pages) if self.good_limit is None else min(self.good_limit, len(pages))
            for page in pages[:good]:
                self.cache.page(page.page_id)[:] = self.stored[page.key]
            if self.in_doubt:
                self.quarantined += [page.page_id for page in pages[good:]]
            reports.append(LoadReport(request_id, good, self.in_doubt))
        return reports

    def page_complete(
        self, page_id: PageId, key: bytes, parent: bytes, tokens: Sequence[int], request_id: str
    ) -> None:
        self.calls.append("page_complete")
        self.completed.append(CachedPage(page_id, key, parent, tuple(tokens)))
        self.stored[key] = bytes(self.cache.page(page_id))

    def step_done(self, running: int, waiting: int) -> None:
        self.calls.append("step_done")

    def cache_reset(self) -> None:
        self.calls.append("cache_reset")
        self.stored.clear()
