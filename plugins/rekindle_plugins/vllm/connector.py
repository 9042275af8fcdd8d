"""`RekindleConnector`: vLLM's connector interface, each call handed to one of the two halves behind one guard.

vLLM makes one connector in the scheduler process and one in every worker. Whatever fails in ours is logged once and
turns ours off; vLLM goes on (rekindle_plugins.client.guard).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.logger import init_logger

from rekindle_plugins.client.guard import Guard
from rekindle_plugins.contract.errors import IdentityError
from rekindle_plugins.vllm.composition import before_registration, composition_of
from rekindle_plugins.vllm.messages import StepDone, StepPlan
from rekindle_plugins.vllm.scheduler import SchedulerShim
from rekindle_plugins.vllm.support import UnsupportedError
from rekindle_plugins.vllm.worker import WorkerShim

T = TypeVar("T")
Half = TypeVar("Half", SchedulerShim, WorkerShim)
log: logging.Logger = init_logger("vllm.rekindle")


def _make(kind: type[Half], guard: Guard, vllm_config: Any, kv_cache_config: Any) -> Half:
    half = kind(guard, log)
    half.initialize(vllm_config, kv_cache_config)
    return half


class RekindleConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """See the module's text. The parameter names are vLLM's (`KVConnectorFactory.create_connector`)."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._guard = Guard(log, self._give_up)
        self._scheduler: SchedulerShim | None = None
        self._worker: WorkerShim | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = self._try(None, _make, SchedulerShim, self._guard, vllm_config, kv_cache_config)
        else:
            self._worker = self._try(None, _make, WorkerShim, self._guard, vllm_config, kv_cache_config)
            composition = self._try(None, composition_of, vllm_config)
            if composition is not None and composition.parent is not None:
                before_registration(composition.parent, self._share)

    @property
    def requires_kv_delivery(self) -> bool:
        """A best-effort cache: vLLM need not recompute what was preempted for our sake."""
        return False

    def _try(self, default: T, work: Callable[..., T], *args: Any) -> T:
        """Through the guard; an unsupported configuration is no failure, and is told in one line."""
        if not self._guard.is_on:
            return default
        try:
            return work(*args)
        except (UnsupportedError, IdentityError) as error:
            self._guard.turn_off(f"this engine is not protected: {error}")
        except Exception:
            self._guard.trip(getattr(work, "__qualname__", str(work)))
        return default

    def _give_up(self) -> None:
        if self._scheduler is not None:
            self._scheduler.give_up()

    # -- worker ------------------------------------------------------------------------------------------------

    def _share(self, kv_caches: dict[str, Any]) -> None:
        if self._worker is not None:
            self._try(None, self._worker.share, kv_caches)

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self._worker is not None:
            self._try(None, self._worker.attach, kv_caches)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        return

    def wait_for_layer_load(self, layer_name: str) -> None:
        return

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        return

    def wait_for_save(self) -> None:
        return

    def _plan(self) -> StepPlan | None:
        metadata = self._connector_metadata
        return metadata if isinstance(metadata, StepPlan) else None

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        plan = self._plan()
        return None, set(plan.loaded) if plan is not None and plan.loaded else None

    def get_block_ids_with_load_errors(self) -> set[int]:
        plan = self._plan()
        return set(plan.bad_blocks) if plan is not None else set()

    def build_connector_worker_meta(self) -> StepDone | None:
        plan = self._plan()
        return StepDone(plan.step) if plan is not None and plan.step else None

    # -- scheduler ---------------------------------------------------------------------------------------------

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        if self._scheduler is not None:
            self._try(None, self._scheduler.attach, gpu_block_pool)

    def on_new_request(self, request: Any) -> None:
        if self._scheduler is not None:
            self._try(None, self._scheduler.on_request, request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        if self._scheduler is None:
            return 0, False
        nothing: int | None = 0
        tokens = self._try(nothing, self._scheduler.offer, request, num_computed_tokens)
        return tokens, bool(tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            self._try(None, self._scheduler.on_allocated_for, request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        if self._scheduler is None:
            return StepPlan()
        plan: StepPlan | None = self._try(None, self._scheduler.build_plan, scheduler_output)
        return plan if plan is not None else self._scheduler.plan_when_off()

    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is not None:
            done = connector_output.kv_connector_worker_meta
            self._try(None, self._scheduler.step_done, done if isinstance(done, StepDone) else None)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        if self._scheduler is not None:
            self._try(None, self._scheduler.on_finished, request)
        return False, None

    def has_pending_push_work(self) -> bool:
        """Keeps an idle engine stepping while pages are on their way."""
        if self._scheduler is None:
            return False
        pending = self._scheduler.has_pending_loads
        return self._try(pending, self._scheduler.found_nothing_to_do)

    def reset_cache(self) -> bool | None:
        if self._scheduler is not None:
            self._try(None, self._scheduler.reset)
        return True

    def shutdown(self) -> None:
        for half in (self._scheduler, self._worker):
            if half is not None:
                self._try(None, half.finalize)
