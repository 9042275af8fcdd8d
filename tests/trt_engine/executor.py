"""The executor loop, in TensorRT-LLM's order. Runs on one thread; everything of a connector after registration does.

fetch, schedule → add sequences (get_num_new_matched_tokens, allocate, update_state_after_alloc), add tokens →
build_connector_meta, bind → start_load_kv → forward with layer hooks → wait_for_save → [this step's tokens, or with
the overlap scheduler those of the step before] → request_finished → get_finished
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nano_engine.blocks import ROOT_PARENT, PageId, PagePool, page_key
from nano_engine.cache import Geometry
from nano_engine.model import Model, ModelConfig, draw_weights

from trt_engine.interface import RequestData, SchedulerOutput, set_rank
from trt_engine.memory import Cache
from trt_engine.request import Batch, Request
from trt_engine.stream import Stream


@dataclass(frozen=True)
class Settings:
    manager: str = "v1"
    has_overlap: bool = True
    pages: int = 256
    chunk_tokens: int = 128
    ranks: int = 1
    dummy_pages: int = 0
    """Free blocks that a step takes behind the connector's back, as padding a CUDA graph does, and writes to."""
    page_tokens: int = 16


class Executor:
    """`make` gets the settings (`llm_args`) and gives the two connector classes' objects, one worker a rank."""

    def __init__(self, settings: Settings, llm_args: Any, scheduler_class: Any, worker_class: Any) -> None:
        config = ModelConfig()
        self.settings = settings
        geometry = Geometry(settings.pages, config.layers, settings.page_tokens, config.heads, config.head_dim)
        self.model = Model(config, draw_weights(config, 0), geometry.max_context)
        self.cache = Cache(geometry, settings.manager, settings.ranks)
        self.pool = PagePool(settings.pages)
        self.stream = Stream()
        self.calls: Counter[str] = Counter()
        self.outputs: list[SchedulerOutput] = []
        self.incoming: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.active: list[Request] = []
        self._previous: Batch | None = None
        self._known: set[int] = set()
        self._external: dict[int, int] = {}
        self._new_saving: dict[int, Request] = {}
        self._saving: dict[int, Request] = {}
        self._saved: list[set[int]] = [set() for _ in range(settings.ranks)]
        self.scheduler = scheduler_class(llm_args)
        self.workers = []
        for rank in range(settings.ranks):
            set_rank(rank)
            self.workers.append(worker_class(llm_args))
            self.cache.ranks[rank].register(self.workers[rank])

    def run(self) -> None:
        """Until None comes in. While there is nothing to do the loop waits, and nobody is called."""
        while True:
            if not self.active and self._previous is None and not self._take(wait=True):
                return
            if not self._take(wait=False):
                return
            self.step()

    def _take(self, wait: bool) -> bool:
        while wait or not self.incoming.empty():
            request = self.incoming.get()
            if request is None:
                return False
            self.active.append(request)
            wait = False
        return True

    # -- one iteration -----------------------------------------------------------------------------------------

    def step(self) -> None:
        context, generation = self._schedule()
        batch = self._launch(context, generation) if context or generation else None
        if self.settings.has_overlap:
            batch, self._previous = self._previous, batch
        if batch is not None:
            self._update(batch)
        self._get_finished()

    def _schedule(self) -> tuple[list[Request], list[Request]]:
        """All that go on, and the prompts that fit: a request starts when its whole length has room."""
        generation = [r for r in self.active if not r.is_in_context and r.launched < r.max_new_tokens]
        context = [r for r in self.active if r.is_in_context and r.pages]
        room = self.pool.free_count - self._promised()
        for request in [r for r in self.active if r.is_in_context and not r.pages]:
            needed = self._needed(len(request.prompt) + request.max_new_tokens)
            if needed > room - self.settings.dummy_pages:
                break
            room -= needed
            context.append(request)
        return context, generation

    def _needed(self, tokens: int) -> int:
        return -(-tokens // self.settings.page_tokens)

    def _promised(self) -> int:
        """GUARANTEED_NO_EVICT: blocks that running requests may still ask for."""
        running = [r for r in self.active if r.pages]
        return sum(self._needed(len(r.prompt) + r.max_new_tokens) - len(r.pages) for r in running)

    def _launch(self, context: list[Request], generation: list[Request]) -> Batch:
        for request in context:
            if not request.pages:
                self._add_sequence(request)
            elif self.settings.manager == "v2":
                self._allocate(request, self._chunk_end(request))
        for request in generation:
            self._allocate(request, len(request.prompt) + request.launched)
        plan = self._call(
            "build_connector_meta", self.scheduler.build_connector_meta, self._output(context, generation)
        )
        self._on_workers("start_load_kv", lambda worker: worker.start_load_kv(self.stream), plan)
        dummies = self.pool.take(self.settings.dummy_pages)
        self.stream.put(lambda: [self.cache.scribble(page) for page in dummies])
        self.pool.release(dummies)
        sampled = []
        work: list[Callable[[], None]] = []
        for request in context:
            start, end = request.context_position, self._chunk_end(request)
            is_last = end == len(request.prompt)
            work.append(self._forward(request, start, end, is_last))
            request.context_position = end
            if is_last:
                sampled.append(request)
        for request in generation:
            position = len(request.prompt) + request.launched - 1
            work.append(self._forward(request, position, position + 1, True))
            sampled.append(request)
        for layer in range(self.model.config.layers):
            self._on_workers("wait_for_layer_load", lambda w, at=layer: w.wait_for_layer_load(at, self.stream))
            self._on_workers("save_kv_layer", lambda w, at=layer: w.save_kv_layer(at, self.stream))
        event = self.stream.put(lambda: [run() for run in work])
        self._on_workers("wait_for_save", lambda worker: worker.wait_for_save(self.stream))
        for request in sampled:
            request.launched += 1
        return Batch(context, generation, sampled, event)

    def _forward(self, request: Request, start: int, end: int, samples: bool) -> Callable[[], None]:
        """What the GPU will do for one request. Generated tokens are taken from the device: the host lags behind."""
        pages = list(request.pages)

        def run() -> None:
            known = [*request.prompt, *request.device_tokens]
            hidden = self.model.forward(self.cache, pages, start, known[start:end])  # type: ignore[arg-type]
            if samples:
                request.device_tokens.append(self.model.next_token(hidden))

        return run

    # -- blocks ------------------------------------------------------------------------------------------------

    def _chunk_end(self, request: Request) -> int:
        return min(request.context_position + self.settings.chunk_tokens, len(request.prompt))

    def _keys(self, request: Request, count: int) -> list[bytes]:
        size, keys = self.settings.page_tokens, list[bytes]()
        for index in range(count):
            tokens = request.tokens[index * size : (index + 1) * size]
            keys.append(page_key(keys[-1] if keys else ROOT_PARENT, tokens, request.cache_salt or ""))
        return keys

    def _add_sequence(self, request: Request) -> None:
        """Whole cached blocks first, then what the connector has, then fresh ones; a token is left to compute."""
        size = self.settings.page_tokens
        request.pages = list(self.pool.match(self._keys(request, (len(request.prompt) - 1) // size)))
        request.registered = len(request.pages)
        request.found_tokens = request.registered * size
        count, is_async = self._call(
            "get_num_new_matched_tokens", self.scheduler.get_num_new_matched_tokens, request, request.found_tokens
        )
        assert not is_async
        assert request.found_tokens + count < len(request.prompt)
        request.loaded_tokens = self._external[request.request_id] = count
        request.context_position = request.found_tokens + count
        is_whole = self.settings.manager == "v1"
        self._allocate(request, len(request.prompt) if is_whole else self._chunk_end(request))
        if is_whole:
            self._call("update_state_after_alloc", self.scheduler.update_state_after_alloc, request, request.pages)
        else:
            self._call(
                "update_state_after_alloc",
                self.scheduler.update_state_after_alloc_by_layer_group,
                request,
                [request.pages],
            )

    def _allocate(self, request: Request, tokens: int) -> None:
        missing = self._needed(tokens) - len(request.pages)
        if missing > 0:
            request.pages.extend(self.pool.take(missing))

    def _output(self, context: list[Request], generation: list[Request]) -> SchedulerOutput:
        output = SchedulerOutput()
        for request in context:
            external = self._external.pop(request.request_id, 0)
            chunk = self._chunk_end(request) - request.context_position
            data = self._data(request, request.context_position - external, chunk)
            is_new = request.request_id not in self._known
            self._known.add(request.request_id)
            (output.new_requests if is_new else output.cached_requests).append(data)
        for request in generation:
            output.cached_requests.append(self._data(request, len(request.tokens) - 1, 1))
        self.outputs.append(output)
        return output

    def _data(self, request: Request, position: int, scheduled: int) -> RequestData:
        tokens, pages = request.tokens[request.reported_tokens :], request.pages[request.reported_pages :]
        request.reported_tokens, request.reported_pages = len(request.tokens), len(request.pages)
        groups = [list(pages)] if self.settings.manager == "v2" else []
        return RequestData(
            request.request_id,
            list(tokens),
            list(pages),
            position,
            scheduled,
            cache_salt=request.cache_salt,
            new_block_ids_by_layer_group=groups,
        )

    # -- after a step ------------------------------------------------------------------------------------------

    def _update(self, batch: Batch) -> None:
        batch.event.result()
        for request in batch.sampled:
            request.tokens.append(request.device_tokens[len(request.tokens) - len(request.prompt)])
            self._publish(request)
            if request.is_complete:
                self._finish(request)

    def _publish(self, request: Request) -> None:
        """Into the engine's own prefix cache: full blocks whose KV is there."""
        size = self.settings.page_tokens
        full = (len(request.tokens) - 1) // size
        keys = self._keys(request, full)
        for index in range(request.registered, full):
            parent = keys[index - 1] if index else ROOT_PARENT
            tokens = request.tokens[index * size : (index + 1) * size]
            self.pool.register(PageId(request.pages[index]), keys[index], parent, tokens)
        request.registered = max(request.registered, full)

    def _finish(self, request: Request) -> None:
        self.active.remove(request)
        if self.settings.manager == "v1":
            is_saving = self._call("request_finished", self.scheduler.request_finished, request, request.pages)
        else:
            finished = self.scheduler.request_finished_by_layer_group
            is_saving = self._call("request_finished", finished, request, [request.pages])
        if is_saving:
            self._new_saving[request.request_id] = request
        else:
            self.pool.release([PageId(page) for page in request.pages])
        request.ended.set()

    def _get_finished(self) -> None:
        """Acts on what all ranks have said."""
        started, self._new_saving = list(self._new_saving), {**self._new_saving}
        self._saving.update(self._new_saving)
        self._new_saving = {}
        self.calls["get_finished"] += 1
        for rank, worker in enumerate(self.workers):
            saved, loaded = worker.get_finished(list(started), [])
            assert set(saved) <= set(self._saving)
            assert not loaded
            self._saved[rank].update(saved)
        for request_id in set.intersection(*self._saved):
            self.pool.release([PageId(page) for page in self._saving.pop(request_id).pages])
            for ids in self._saved:
                ids.discard(request_id)

    def _call(self, name: str, method: Callable[..., Any], *args: Any) -> Any:
        self.calls[name] += 1
        return method(*args)

    def _on_workers(self, name: str, call: Callable[[Any], None], plan: object = None) -> None:
        self.calls[name] += 1
        for worker in self.workers:
            if plan is not None:
                worker.bind_connector_meta(plan)
            call(worker)
