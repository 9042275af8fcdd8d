"""What this plugin can and cannot do with a given vLLM configuration, decided once at start.

An unsupported configuration turns the plugin off with one clear line. The engine then runs as without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class UnsupportedError(Exception):
    """The configuration is one that this plugin does not protect. The text says which part."""


@dataclass(frozen=True)
class Group:
    """One KV-cache group. `windowed`: only a tail of its pages is needed to go on (sliding window, chunked local)."""

    index: int
    block_size: int
    windowed: bool
    layer_names: tuple[str, ...]
    description: str


def groups_of(kv_cache_config: Any) -> tuple[Group, ...]:
    """The groups of `KVCacheConfig.kv_cache_groups`. Raises UnsupportedError for state that is not attention KV."""
    from vllm.v1.kv_cache_interface import AttentionSpec, ChunkedLocalAttentionSpec, SlidingWindowSpec

    found = []
    for index, group in enumerate(kv_cache_config.kv_cache_groups):
        specs = list(getattr(group.kv_cache_spec, "kv_cache_specs", {}).values()) or [group.kv_cache_spec]
        names = sorted({type(spec).__name__ for spec in specs})
        if not all(isinstance(spec, AttentionSpec) for spec in specs):
            raise UnsupportedError(f"KV-cache group {index} holds {', '.join(names)}, not attention pages")
        if getattr(group, "host_resident", False) or not getattr(group, "enable_kv_transfer", True):
            raise UnsupportedError(f"KV-cache group {index} is not transferable")
        windowed = all(isinstance(spec, (SlidingWindowSpec, ChunkedLocalAttentionSpec)) for spec in specs)
        windows = sorted({str(getattr(spec, "sliding_window", None)) for spec in specs})
        pages = sorted({spec.page_size_bytes for spec in specs})
        description = f"{'+'.join(names)} x{len(group.layer_names)} block {specs[0].block_size} page {pages} {windows}"
        found.append(Group(index, specs[0].block_size, windowed, tuple(group.layer_names), description))
    if not found:
        raise UnsupportedError("the model has no KV cache")
    return tuple(found)


def check_parallel(vllm_config: Any) -> int:
    """The number of ranks that hold a part of every page. Raises UnsupportedError."""
    parallel = vllm_config.parallel_config
    for name, what in (
        ("pipeline_parallel_size", "pipeline parallelism"),
        ("decode_context_parallel_size", "decode context parallelism"),
        ("prefill_context_parallel_size", "prefill context parallelism"),
    ):
        if int(getattr(parallel, name, 1) or 1) > 1:
            raise UnsupportedError(f"{what} is not supported yet")
    return int(parallel.tensor_parallel_size)
