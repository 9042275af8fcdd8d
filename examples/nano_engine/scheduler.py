"""Who runs in the next step, and on which pages: continuous batching with chunked prefill.

Engine thread only. Requests are served in order of arrival. When pages run out, the youngest running request
loses its own and starts over later ("preemption by recompute"), so the oldest always gets on. A request in
LOADING is never preempted: somebody else is writing to its pages.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nano_engine.blocks import CachedPage, PageId, PagePool
from nano_engine.hooks import LoadReport
from nano_engine.request import Request, Status

Lookup = Callable[[Sequence[bytes], int], int]


@dataclass(frozen=True)
class Limits:
    """`step_tokens`: tokens one step may compute. `max_running`: requests that run or load at a time."""

    step_tokens: int = 256
    max_running: int = 16

    def __post_init__(self) -> None:
        if min(self.step_tokens, self.max_running) < 1:
            raise ValueError(f"limits must be positive, got {self}")


class Work(NamedTuple):
    """Compute the next `tokens` tokens of `request`."""

    request: Request
    tokens: int


class Load(NamedTuple):
    """Ask the plugin to fill `pages` for `request`."""

    request: Request
    pages: list[CachedPage]


@dataclass
class Plan:
    """One step, decided. `fresh_pages` changed owner and are about to be written, by `work` or by `loads`."""

    work: list[Work] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    fresh_pages: list[PageId] = field(default_factory=list)
    preempted: bool = False


@dataclass
class Counts:
    """Totals since the start, in tokens and events."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    loaded_tokens: int = 0
    preemptions: int = 0


def _arrival(request: Request) -> int:
    return request.arrival


class Scheduler:
    """Owns the queues. `running` and `waiting` are in order of arrival."""

    def __init__(self, pool: PagePool, page_tokens: int, limits: Limits, lookup: Lookup) -> None:
        self.pool = pool
        self.page_tokens = page_tokens
        self.limits = limits
        self.counts = Counts()
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.loading: dict[str, Request] = {}
        self._lookup = lookup
        self._arrivals = 0

    @property
    def has_requests(self) -> bool:
        return bool(self.waiting or self.running or self.loading)

    @property
    def waiting_count(self) -> int:
        """Requests that wait for a seat, for pages, or for a load."""
        return len(self.waiting) + len(self.loading)

    def add(self, request: Request) -> None:
        self._arrivals += 1
        request.arrival = self._arrivals
        self.waiting.append(request)

    def schedule(self) -> Plan:
        """Decide the next step: running requests first, then new ones while tokens, seats and pages last."""
        plan = Plan()
        budget = self.limits.step_tokens
        for request in list(self.running):
            if budget == 0:
                break
            # An older request may have taken this one's pages a moment ago.
            if request.status is Status.RUNNING and self._grow(request, min(request.uncomputed, budget), plan):
                budget -= plan.work[-1].tokens
        while self.waiting and budget and not plan.preempted and self._seats() > 0:
            request = self.waiting[0]
            if not self._admit(request, plan):
                break
            if request.status is Status.RUNNING and self._grow(request, min(request.uncomputed, budget), plan):
                budget -= plan.work[-1].tokens
        return plan

    def load_ended(self, report: LoadReport) -> Request:
        """Take a load's good pages as computed; what is left of the prompt is recomputed.

        KeyError for a load nobody waits for. The request goes on running, or back to waiting when its load
        was to be dropped; the caller looks at `abort_wanted`.
        """
        request = self.loading.pop(report.request_id)
        first = len(request.pages) - request.loading_count
        good = max(0, min(report.good_count, request.loading_count))
        kept = 0 if request.drop_load else good
        loaded = request.pages[first:]
        # Pages in doubt pass to the plugin; all the others the request does not keep are free again.
        self.pool.release(loaded[kept:good] if report.in_doubt else loaded[kept:])
        del request.pages[first + kept :]
        request.loading_count = 0
        request.computed = len(request.pages) * self.page_tokens
        for index in range(first, len(request.pages)):
            self._register(request, index)
        request.committed_pages = len(request.pages)
        self.counts.loaded_tokens += kept * self.page_tokens
        if request.drop_load:
            self._back_to_waiting(request)
        else:
            self._start_running(request)
        return request

    def commit_pages(self, request: Request) -> list[CachedPage]:
        """Register the pages that `request` has completed since the last call, and return them."""
        request.extend_keys(self.page_tokens)
        full = request.computed // self.page_tokens
        done = [self._register(request, index) for index in range(request.committed_pages, full)]
        request.committed_pages = full
        return [page for page in done if page is not None]

    def finish(self, request: Request) -> None:
        """Take a request that is not LOADING out of the queues and let its pages go."""
        queue = self.running if request.status is Status.RUNNING else self.waiting
        queue.remove(request)
        self.pool.release(request.pages)
        request.pages = []
        request.status = Status.FINISHED

    def reset(self) -> None:
        """Forget every key. Whoever runs or loads starts over: its pages, too, are of before the reset."""
        for request in reversed(self.running):
            self._preempt(request)
        for request in self.loading.values():
            request.drop_load = True
        self.pool.forget_all()

    def _seats(self) -> int:
        return self.limits.max_running - len(self.running) - len(self.loading)

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_tokens)

    def _admit(self, request: Request, plan: Plan) -> bool:
        """Give the first waiting request its cached prefix and start it, or a load. False: no pages yet."""
        request.extend_keys(self.page_tokens)
        # At least one token is always computed: its hidden state is where the next token comes from.
        keys = request.keys[: (len(request.tokens) - 1) // self.page_tokens]
        local = self.pool.match(keys)
        if self.pool.free_count < self._pages_for(len(request.tokens)) - len(local):
            self.pool.release(local)
            return False
        self.waiting.pop(0)
        request.pages = list(local)
        request.committed_pages = len(local)
        request.computed = len(local) * self.page_tokens
        if request.cached_tokens is None:
            self.counts.queried_tokens += len(request.tokens)
            self.counts.hit_tokens += request.computed
        further = min(self._lookup(keys, len(local)), len(keys) - len(local)) if len(local) < len(keys) else 0
        if further > 0:
            self._begin_load(request, further, plan)
            return True
        self._start_running(request)
        return True

    def _start_running(self, request: Request) -> None:
        if request.cached_tokens is None:
            request.cached_tokens = request.computed
        request.status = Status.RUNNING
        insort(self.running, request, key=_arrival)

    def _begin_load(self, request: Request, count: int, plan: Plan) -> None:
        first = len(request.pages)
        fresh = self.pool.take(count)
        plan.fresh_pages += fresh
        request.pages += fresh
        request.loading_count = count
        request.status = Status.LOADING
        self.loading[request.request_id] = request
        plan.loads.append(Load(request, [self._page(request, index) for index in range(first, first + count)]))

    def _grow(self, request: Request, count: int, plan: Plan) -> bool:
        """Plan `count` more tokens for a running request. False: it was the youngest, and lost its pages."""
        missing = self._pages_for(request.computed + count) - len(request.pages)
        while self.pool.free_count < missing:
            youngest = self.running[-1]
            self._preempt(youngest)
            plan.preempted = True
            if youngest is request:
                return False
        fresh = self.pool.take(max(0, missing))
        plan.fresh_pages += fresh
        request.pages += fresh
        plan.work.append(Work(request, count))
        return True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        self.counts.preemptions += 1
        self._back_to_waiting(request)

    def _back_to_waiting(self, request: Request) -> None:
        self.pool.release(request.pages)
        request.pages = []
        request.computed = request.committed_pages = 0
        request.drop_load = False
        request.status = Status.WAITING
        insort(self.waiting, request, key=_arrival)

    def _page(self, request: Request, index: int) -> CachedPage:
        tokens = tuple(request.page_slice(index, self.page_tokens))
        return CachedPage(request.pages[index], request.keys[index], request.parent_of(index), tokens)

    def _register(self, request: Request, index: int) -> CachedPage | None:
        page = self._page(request, index)
        return page if self.pool.register(*page) else None
