"""The cache tensor as a region: moved into shared memory in place, its pages found by strides."""

from __future__ import annotations

import os

from rekindle_plugins.contract.geometry import GroupGeometry, Region, Run, coalesce
from rekindle_plugins.contract.sharing import SHM

from rekindle_transformers.engine_parts import EngineParts, UnsupportedError

SHM_MARGIN_BYTES = 64 << 20
"""Left free in /dev/shm, which others use too."""


def share(parts: EngineParts) -> tuple[Region, tuple[int, ...]]:
    """Moves the cache tensor and returns the region with its descriptors.

    All views of the tensor follow, since they share its storage. Raises UnsupportedError when there is no room, or when
    a page's bytes cannot be told for certain.
    """
    runs = page_runs(parts)
    storage = parts.cache.cache_tensor.untyped_storage()
    room = os.statvfs("/dev/shm")
    if room.f_bavail * room.f_frsize < storage.nbytes() + SHM_MARGIN_BYTES:
        raise UnsupportedError(
            f"/dev/shm has {room.f_bavail * room.f_frsize >> 20} MiB free, the KV cache needs {storage.nbytes() >> 20}"
        )
    fd, _ = storage._share_fd_cpu_()
    group = GroupGeometry(parts.page_tokens, runs)
    return Region(0, SHM, parts.page_count, (os.fstat(fd).st_size,), (group,)), (os.dup(fd),)


def page_runs(parts: EngineParts) -> tuple[Run, ...]:
    """Where a page's bytes lie: for each layer the keys of its tokens, then the values."""
    allocator = parts.allocator
    runs = []
    for layer in allocator.layer_indices:
        for view in allocator._kv_token_views[layer]:  # a row is one token's keys (or values) of all heads
            row = view.stride(0) * view.element_size()
            if row != view[0].numel() * view.element_size() or not view[0].is_contiguous():
                raise UnsupportedError(f"the cache of layer {layer} has strides {view.stride()}")
            base = view.storage_offset() * view.element_size()
            runs.append(Run(0, base, allocator.block_physical_stride * row, parts.page_tokens * row))
    total = sum(run.length for run in runs)
    if total != allocator.bytes_per_block:
        raise UnsupportedError(f"its layers add up to {total} B, a block has {allocator.bytes_per_block}")
    return coalesce(runs)


def describe(parts: EngineParts) -> str:
    """What the bytes of a page mean. Part of the identity: another meaning is another page."""
    allocator = parts.allocator
    return (
        f"pages of {parts.page_tokens} tokens, {len(allocator.layer_indices)} layers x keys, values x tokens x "
        f"{allocator.num_key_value_heads} heads x {allocator.head_dim} {allocator.cache_dtype}"
    )
