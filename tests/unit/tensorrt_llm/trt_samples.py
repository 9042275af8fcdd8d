"""What the engine would hand to the shim, in plain values."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from rekindle_plugins.client.guard import Guard
from rekindle_plugins.contract.geometry import GroupGeometry, Run
from rekindle_plugins.tensorrt_llm.geometry import Pool
from rekindle_plugins.tensorrt_llm.scheduler import LeaderShim
from trt_engine.interface import RequestData, SchedulerOutput

PAGE_TOKENS = 4
LOG = logging.getLogger("test")


def llm_args(model: str = "", **more: Any) -> Any:
    """A configuration that is supported, but for what `more` says. `kv_…` goes into the cache's part."""
    cache = {
        "enable_block_reuse": True,
        "enable_partial_reuse": False,
        "host_cache_size": 0,
        "tokens_per_block": PAGE_TOKENS,
        "use_kv_cache_manager_v2": False,
        "dtype": "auto",
    } | {name.removeprefix("kv_"): value for name, value in more.items() if name.startswith("kv_")}
    rest = {name: value for name, value in more.items() if not name.startswith("kv_")}
    policy = SimpleNamespace(capacity_scheduler_policy="GUARANTEED_NO_EVICT")
    plain = {"model": model, "dtype": "bfloat16", "load_format": "auto", "tensor_parallel_size": 1}
    return SimpleNamespace(**({"kv_cache_config": SimpleNamespace(**cache), "scheduler_config": policy} | plain | rest))


def request(request_id: int = 1, tokens: Sequence[int] = (), **more: Any) -> Any:
    return SimpleNamespace(request_id=request_id, get_tokens=lambda beam: list(tokens), **more)


def data(
    request_id: int, tokens: Sequence[int], pages: Sequence[int], computed: int = 0, groups: Any = ()
) -> RequestData:
    return RequestData(
        request_id, list(tokens), list(pages), computed, len(tokens), new_block_ids_by_layer_group=list(groups)
    )


def first(*requests: RequestData) -> SchedulerOutput:
    return SchedulerOutput(new_requests=list(requests))


def later(*requests: RequestData) -> SchedulerOutput:
    return SchedulerOutput(cached_requests=list(requests))


def pool(page_count: int = 32) -> Pool:
    return Pool(((4096, page_count * 64),), page_count, GroupGeometry(PAGE_TOKENS, (Run(0, 0, 64, 64),)), "layout")


def leader_shim(model: str) -> LeaderShim:
    """Attached as far as its leader goes: there is no sidecar."""
    shim = LeaderShim(Guard(LOG), LOG)
    shim.initialize(llm_args(model))
    shim.attach(pool(), 0, "1.3.0")
    return shim
