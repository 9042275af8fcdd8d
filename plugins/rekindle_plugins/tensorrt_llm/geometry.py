"""From what the engine registers to a region: where the bytes of a block lie in one rank's GPU memory.

    V1  one pool tensor [blocks, layers, K/V, …]: block i is row i, whole and contiguous
    V2  `KvCacheLayout`: a layer group's page i is, in each of its regions, `size` bytes at base + stride · i

V2's regions may interleave in one pool (two regions of one slot, one stride), so overlapping ones become one buffer
with a run for each. What is exported and mapped is the buffers' memory, see `client.cuda`.

Leans on `get_unique_primary_pool` (pyexecutor/resource_manager.py) and on pyexecutor/connectors/kv_cache_layout.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.geometry import MAX_SEGMENTS, GroupGeometry, Run, coalesce
from rekindle_plugins.tensorrt_llm.support import UnsupportedError


@dataclass(frozen=True)
class Pool:
    """One rank's KV cache as plain numbers. Buffers are (device address, size in bytes)."""

    buffers: tuple[tuple[int, int], ...]
    page_count: int
    group: GroupGeometry
    layout: str
    """What the bytes of a page mean, without where they lie. Part of the identity."""

    @property
    def part_bytes(self) -> int:
        return self.group.part_bytes


@dataclass(frozen=True)
class _Region:
    base: int
    size: int
    stride: int


def pool_of_tensor(tensor: Any, page_tokens: int) -> Pool:
    """V1. Raises UnsupportedError for a tensor whose rows are not whole blocks in GPU memory."""
    if tensor.device.type != "cuda":
        raise UnsupportedError(f"KV-cache memory on {tensor.device.type} is not supported")
    shape, strides, item = tuple(tensor.shape), tuple(tensor.stride()), int(tensor.element_size())
    row_items = 1
    for count, stride in zip(reversed(shape[1:]), reversed(strides[1:]), strict=True):
        if count != 1 and stride != row_items:
            raise UnsupportedError(f"a KV-cache pool of shape {shape} and strides {strides} has blocks in pieces")
        row_items *= count
    if len(shape) < 3 or shape[0] < 1 or strides[0] < row_items:
        raise UnsupportedError(f"a KV-cache pool of shape {shape} and strides {strides} has no blocks as rows")
    length, stride = row_items * item, strides[0] * item
    buffers = ((int(tensor.data_ptr()), (shape[0] - 1) * stride + length),)
    layout = f"v1 {shape[1:]} {tensor.dtype}"
    return Pool(buffers, shape[0], GroupGeometry(page_tokens, (Run(0, 0, stride, length),)), _digest(layout))


def pool_of_layout(layout: Any) -> Pool:
    """V2. Raises UnsupportedError for layouts whose pages we could not put back."""
    groups = list(layout.groups)
    if len(groups) != 1:
        raise UnsupportedError(f"a KV cache of {len(groups)} layer groups is not supported: one is restored at most")
    (group,) = groups
    if group.window_size is not None:
        raise UnsupportedError(f"sliding windows are not supported (of {group.window_size} tokens here)")
    found = [*group.regions, *getattr(group, "replicated_regions", ())]
    slots = {int(region.num_slots) for region in found}
    if len(slots) != 1:
        raise UnsupportedError(f"the KV cache's regions have {sorted(slots)} pages, they should have as many each")
    if any(int(getattr(buffer, "expansion", 1)) != 1 for region in found for buffer in region.buffers):
        raise UnsupportedError("layers with pages of different lengths are not supported")
    regions = [_Region(int(region.base), int(region.size), int(region.stride)) for region in found]
    (page_count,) = slots
    buffers, runs = _runs(regions, page_count)
    meaning = "; ".join(
        ",".join(f"{buffer.layer_id}:{buffer.role}" for buffer in region.buffers) + f" {region.size}"
        for region in found
    )
    geometry = GroupGeometry(int(layout.tokens_per_block), coalesce(runs))
    return Pool(buffers, page_count, geometry, _digest(f"v2 {meaning}"))


def _runs(regions: Sequence[_Region], page_count: int) -> tuple[tuple[tuple[int, int], ...], list[Run]]:
    """(buffers, runs in the order of the regions): regions whose memory overlaps lie in one buffer."""
    spans: list[tuple[int, int]] = []
    for region in sorted(regions, key=lambda region: region.base):
        end = region.base + region.stride * (page_count - 1) + region.size
        if spans and region.base < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((region.base, end))
    runs = []
    for region in regions:
        index = next(i for i, (start, end) in enumerate(spans) if start <= region.base < end)
        runs.append(Run(index, region.base - spans[index][0], region.stride, region.size))
    return tuple((start, end - start) for start, end in spans), runs


def segments(pool: Pool, page_id: int) -> list[tuple[int, int, int]]:
    """(device address, place in the page's part, length) of each piece of a page, in the order of a stored page."""
    found = []
    place = 0
    for run in pool.group.runs:
        start = pool.buffers[run.buffer][0] + run.base + page_id * run.stride
        for index in range(run.count):
            found.append((start + index * run.step, place, run.length))
            place += run.length
    assert len(found) <= MAX_SEGMENTS
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
