"""The engine: a model, a cache, a scheduler, and `step`, in which a request's whole life passes.

One thread at a time (the engine thread, see `loop`). No clock, no sockets: a test can drive it step by step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nano_engine.blocks import PagePool
from nano_engine.cache import Geometry, KVCache
from nano_engine.hooks import CacheHooks, NoHooks
from nano_engine.model import VOCAB_SIZE, Model, ModelConfig, draw_weights, load_weights
from nano_engine.request import Finish, Request, RequestError, Status
from nano_engine.scheduler import Limits, Scheduler, Work


@dataclass(frozen=True)
class EngineConfig:
    """Everything that decides what an engine computes. `weights`: an .npz file instead of `seed`'s drawing."""

    model: ModelConfig = field(default_factory=ModelConfig)
    limits: Limits = field(default_factory=Limits)
    pages: int = 256
    page_tokens: int = 16
    seed: int = 0
    weights: Path | None = None

    def __post_init__(self) -> None:
        if min(self.pages, self.page_tokens) < 1:
            raise ValueError(f"pages and page_tokens must be positive, got {self.pages} and {self.page_tokens}")


class Output(NamedTuple):
    """What one step did for one request: a token, an end, or both. An aborted request has no last token."""

    request_id: str
    token: int | None
    finish: Finish | None
    cached_tokens: int


class Engine:
    """Call `start` once, then `submit`, `abort` and `step` in any order, then `close`."""

    def __init__(self, config: EngineConfig, hooks: CacheHooks | None = None) -> None:
        """Build model and cache. Raises OSError or WeightsError; a failed start leaves nothing behind."""
        weights = load_weights(config.weights, config.model) if config.weights else None
        weights = weights or draw_weights(config.model, config.seed)
        geometry = Geometry(
            pages=config.pages,
            layers=config.model.layers,
            page_tokens=config.page_tokens,
            heads=config.model.heads,
            head_dim=config.model.head_dim,
        )
        self.config = config
        self.weights = weights
        self.model = Model(config.model, weights, geometry.max_context)
        self.cache = KVCache(geometry, self.model.digest)
        self.pool = PagePool(geometry.pages)
        self.hooks: CacheHooks = hooks or NoHooks()
        self.scheduler = Scheduler(self.pool, geometry.page_tokens, config.limits, self.hooks.lookup)
        self.step_count = 0
        self.computed_prompt_tokens = 0
        self.generated_tokens = 0
        self._requests: dict[str, Request] = {}

    def start(self) -> None:
        """Let the plugin restore what it has. May take as long as the plugin does."""
        self.hooks.ready(self.cache, self.pool)

    def close(self) -> None:
        self.hooks.close()
        self.cache.close()

    def check(self, request: Request) -> None:
        """Raises RequestError for a request that could never finish. Safe from any thread."""
        if not request.tokens:
            raise RequestError("the prompt is empty")
        wrong = next((token for token in request.tokens if not 0 <= token < VOCAB_SIZE), None)
        if wrong is not None:
            raise RequestError(f"token id {wrong} is not in 0…{VOCAB_SIZE - 1}")
        if request.max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, got {request.max_tokens}")
        needed, limit = request.prompt_count + request.max_tokens, self.cache.geometry.max_context
        if needed > limit:
            sizes = f"{request.prompt_count} prompt tokens and max_tokens {request.max_tokens}"
            raise RequestError(f"{sizes} exceed the context of {limit}")

    def submit(self, request: Request) -> None:
        """Queue a request. Raises RequestError for one that could never finish or whose id is in use."""
        self.check(request)
        if request.request_id in self._requests:
            raise RequestError(f"request id {request.request_id} is in use")
        self._requests[request.request_id] = request
        self.scheduler.add(request)

    def abort(self, request_id: str) -> Output | None:
        """End a request now; None if it is unknown or ended already.

        A request whose pages are being loaded gives them up only when the load has ended.
        """
        request = self._requests.get(request_id)
        if request is None or request.abort_wanted:
            return None
        if request.status is Status.LOADING:
            request.abort_wanted = request.drop_load = True
            return Output(request_id, None, Finish.ABORT, 0)
        return self._end(request, None, Finish.ABORT)

    def reset_prefix_cache(self) -> None:
        """Forget every cached page; running requests start over, and their clients notice only the delay."""
        self.scheduler.reset()
        self.hooks.cache_reset()

    @property
    def has_requests(self) -> bool:
        return self.scheduler.has_requests

    def step(self) -> list[Output]:
        """One turn of the engine: end loads, schedule, run, postprocess. It may find nothing to run."""
        self.hooks.step_begins(len(self.scheduler.running), self.scheduler.waiting_count)
        self._end_loads()

        plan = self.scheduler.schedule()
        if plan.fresh_pages:
            self.hooks.pages_allocated(plan.fresh_pages)
        for load in plan.loads:
            self.hooks.load(load.request.request_id, load.pages)

        sampled = [self._run(work) for work in plan.work]

        outputs = self._postprocess(plan.work, sampled)
        self.hooks.step_done(len(self.scheduler.running), self.scheduler.waiting_count)
        return outputs

    def _end_loads(self) -> None:
        for report in self.hooks.poll_loads():
            request = self.scheduler.load_ended(report)
            if request.abort_wanted:
                self._end(request, None, Finish.ABORT)

    def _run(self, work: Work) -> int | None:
        """Compute one request's part of the step. Returns its next token when it has caught up."""
        request, end = work.request, work.request.computed + work.tokens
        hidden = self.model.forward(self.cache, request.pages, request.computed, request.tokens[request.computed : end])
        return self.model.next_token(hidden) if end == len(request.tokens) else None

    def _postprocess(self, plan_work: list[Work], sampled: list[int | None]) -> list[Output]:
        """Commit complete pages, then append tokens: whoever sees a token finds the pages before it committed."""
        for request, count in plan_work:
            self.computed_prompt_tokens += max(0, min(count, request.prompt_count - request.computed))
            request.computed += count
            for page in self.scheduler.commit_pages(request):
                self.hooks.page_complete(*page, request.request_id)
        self.step_count += bool(plan_work)
        return [
            self._append(work.request, token)
            for work, token in zip(plan_work, sampled, strict=True)
            if token is not None
        ]

    def _append(self, request: Request, token: int) -> Output:
        request.tokens.append(token)
        self.generated_tokens += 1
        finish = request.finish_after(token)
        if finish is not None:
            return self._end(request, token, finish)
        return Output(request.request_id, token, None, request.cached_tokens or 0)

    def _end(self, request: Request, token: int | None, finish: Finish) -> Output:
        self.scheduler.finish(request)
        del self._requests[request.request_id]
        return Output(request.request_id, token, finish, request.cached_tokens or 0)
