"""The two connector classes: TensorRT-LLM's interface, each call handed to one of the two halves behind one guard.

    executor made     both classes (at the same time), register_kv_caches or register_kv_cache_layout
    each iteration    get_num_new_matched_tokens, update_state_after_alloc      new requests, rank 0
                      build_connector_meta                                      rank 0; broadcast
                      start_load_kv, layer hooks, wait_for_save                 every rank; the GPU is not waited for
                      request_finished                                          rank 0; broadcast
                      get_finished                                              every rank; all-gather

An exception out of a leader's callback would leave the other ranks waiting in the broadcast: none leaves ours. The one
exception that is let out is `start_load_kv`'s, where the alternative is a step that computes wrong tokens. Nothing is
done in the layer hooks, which do not run when a CUDA graph is replayed.

Leans on pyexecutor/connectors/kv_cache_connector.py, in earlier versions pyexecutor/kv_cache_connector.py.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rekindle_plugins.client.guard import Guard
from rekindle_plugins.contract.errors import ConfigError, IdentityError
from rekindle_plugins.tensorrt_llm.meeting import announce
from rekindle_plugins.tensorrt_llm.messages import StepPlan
from rekindle_plugins.tensorrt_llm.scheduler import LeaderShim
from rekindle_plugins.tensorrt_llm.support import UnsupportedError
from rekindle_plugins.tensorrt_llm.worker import WorkerShim

T = TypeVar("T")
log = logging.getLogger("rekindle.tensorrt_llm")

PLACES = (
    "tensorrt_llm._torch.pyexecutor.connectors.kv_cache_connector",
    "tensorrt_llm._torch.pyexecutor.kv_cache_connector",
)


def _interface() -> Any:
    """The module with the base classes, newest place first."""
    for place in PLACES[:-1]:
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not place.startswith(error.name):
                raise
    return importlib.import_module(PLACES[-1])


_base: Any = _interface()


def _attempt(guard: Guard, default: T, work: Callable[..., T], *args: Any) -> T:
    """Through the guard; an unsupported configuration is no failure, and is told in one line."""
    if not guard.is_on:
        return default
    try:
        return work(*args)
    except (UnsupportedError, IdentityError, ConfigError) as error:
        guard.turn_off(f"this engine is not protected: {error}")
    except Exception:
        guard.trip(getattr(work, "__qualname__", str(work)))
    return default


class RekindleScheduler(_base.KvCacheConnectorScheduler):  # type: ignore[misc]
    """The leader's half. See the module's text."""

    def __init__(self, llm_args: Any) -> None:
        super().__init__(llm_args)
        self._guard = Guard(log, self._give_up)
        self._shim: LeaderShim | None = _attempt(self._guard, None, self._make, llm_args)

    def _make(self, llm_args: Any) -> LeaderShim:
        shim = LeaderShim(self._guard, log)
        shim.initialize(llm_args)
        announce(llm_args, shim)
        return shim

    def _give_up(self) -> None:
        shim: LeaderShim | None = getattr(self, "_shim", None)
        if shim is not None:
            shim.give_up()

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Never asynchronous: what is claimed is here already (`loads`)."""
        if self._shim is None:
            return 0, False
        return _attempt(self._guard, 0, self._shim.offer, request, int(num_computed_tokens)), False

    def update_state_after_alloc(self, request: Any, block_ids: Sequence[int]) -> None:
        if self._shim is not None:
            _attempt(self._guard, None, self._shim.on_allocated_for, request)

    def update_state_after_alloc_by_layer_group(self, request: Any, block_ids_by_layer_group: Any) -> None:
        self.update_state_after_alloc(request, ())

    def build_connector_meta(self, scheduler_output: Any) -> StepPlan | None:
        if self._shim is None:
            return None
        nothing: dict[int, int] = {}
        claimed = _attempt(self._guard, nothing, self._shim.claimed_from, scheduler_output)
        plan = self._shim.next_plan(scheduler_output)
        _attempt(self._guard, None, self._shim.follow, scheduler_output, claimed)
        return plan

    def request_finished(self, request: Any, cache_block_ids: Sequence[int]) -> bool:
        return self._shim is not None and _attempt(self._guard, False, self._shim.on_finished, request)

    def request_finished_by_layer_group(self, request: Any, cache_block_ids_by_layer_group: Any) -> bool:
        return self.request_finished(request, ())

    def request_reset(self, request: Any) -> None:
        if self._shim is not None:
            _attempt(self._guard, None, self._shim.on_reset, request)

    def cancel_load(self, request: Any, start: int, end: int) -> None:
        if self._shim is not None:
            _attempt(self._guard, None, self._shim.on_load_cancelled, request, int(start))


class RekindleWorker(_base.KvCacheConnectorWorker):  # type: ignore[misc]
    """A rank's half. See the module's text."""

    def __init__(self, llm_args: Any) -> None:
        super().__init__(llm_args)
        self._guard = Guard(log, self._give_up)
        self._saving: set[int] = set()
        """Ended requests whose blocks the engine keeps until we name them."""
        self._shim: WorkerShim | None = _attempt(self._guard, None, self._make, llm_args)

    def _make(self, llm_args: Any) -> WorkerShim:
        shim = WorkerShim(self._guard, log)
        shim.initialize(llm_args)
        return shim

    def _give_up(self) -> None:
        shim: WorkerShim | None = getattr(self, "_shim", None)
        if shim is not None:
            shim.give_up()

    def register_kv_caches(self, kv_cache_tensor: Any) -> None:
        if self._shim is not None:
            _attempt(self._guard, None, self._shim.attach_tensor, kv_cache_tensor, _rank(), _engine_version())

    def register_kv_cache_layout(self, layout: Any) -> None:
        if self._shim is not None:
            _attempt(self._guard, None, self._shim.attach_layout, layout, _rank(), _engine_version())

    def start_load_kv(self, stream: Any) -> None:
        """The one place that raises: see the module's text."""
        plan = self.get_connector_meta()
        if self._shim is None or not isinstance(plan, StepPlan):
            return
        _attempt(self._guard, None, self._shim.follow, plan)
        self._shim.load(plan, int(getattr(stream, "cuda_stream", 0)))  # whether the guard is on or not

    def wait_for_layer_load(self, layer_idx: int, stream: Any) -> None:
        return

    def save_kv_layer(self, layer_idx: int, stream: Any) -> None:
        return

    def wait_for_save(self, stream: Any) -> None:
        return

    def get_finished(
        self, finished_gen_req_ids: list[int], started_loading_req_ids: list[int]
    ) -> tuple[list[int], list[int]]:
        self._saving.update(finished_gen_req_ids)
        done: list[int] = []
        if self._shim is not None:
            done = _attempt(self._guard, done, self._shim.finished, finished_gen_req_ids)
        if not self._guard.is_on:
            done = list(self._saving)
        self._saving.difference_update(done)
        return done, []


def _rank() -> int:
    from tensorrt_llm._utils import mpi_rank

    return int(mpi_rank())


def _engine_version() -> str:
    import tensorrt_llm

    return str(tensorrt_llm.__version__)
