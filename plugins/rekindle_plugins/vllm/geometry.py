"""From vLLM's KV-cache tensors to region runs: where the bytes of a block lie, derived from shapes and strides.

No layout name is interpreted. A layer's tensor has one dimension that counts blocks (or kernel blocks, a fixed number
to a block); what remains when it is fixed is one page, a set of byte ranges. The page's size must be what the layer's
spec says, and the derivation must be unique, or the memory is not protected.

    0.28   (2, blocks, …) or (blocks, 2, …), one allocation a layer
    0.32   (blocks, heads, tokens, content), one allocation for all layers, layers or blocks outermost
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.geometry import GroupGeometry, Run, coalesce
from rekindle_plugins.vllm.support import Group, UnsupportedError

MAX_SEGMENTS = 4096


@dataclass(frozen=True)
class View:
    """A layer's tensor as plain numbers. `offset` and `strides` in bytes, within buffer `buffer`."""

    buffer: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item_bytes: int


def group_geometry(group: Group, views: list[View], page_bytes: list[int], block_count: int) -> GroupGeometry:
    """Runs of one group from its layers' views. Raises UnsupportedError when a page cannot be told for certain."""
    runs: list[Run] = []
    for view, size in zip(views, page_bytes, strict=True):
        layer_runs = layer_page(view, size, block_count)
        if layer_runs not in [runs[i : i + len(layer_runs)] for i in range(len(runs))]:  # layers may share a tensor
            runs.extend(layer_runs)
    return GroupGeometry(group.block_size, coalesce(runs))


def layer_page(view: View, page_bytes: int, block_count: int) -> list[Run]:
    """One layer's page as runs of single segments."""
    candidates = []
    for dim, size in enumerate(view.shape):
        if size and size % block_count == 0:
            rest = [(n, s) for d, (n, s) in enumerate(zip(view.shape, view.strides, strict=True)) if d != dim]
            per_block = size // block_count
            if per_block > 1:
                rest.append((per_block, view.strides[dim]))
            runs = _segments(view, rest, view.strides[dim] * per_block)
            if sum(run.length for run in runs) == page_bytes and _is_sound(runs, block_count):
                candidates.append(runs)
    if len(candidates) != 1:
        raise UnsupportedError(
            f"a KV-cache tensor of shape {view.shape} and byte strides {view.strides} has {len(candidates)} dimensions "
            f"that could count {block_count} blocks of {page_bytes} B"
        )
    return candidates[0]


def _segments(view: View, rest: list[tuple[int, int]], stride: int) -> list[Run]:
    """The contiguous ranges of one page: inner dimensions melt into one range, outer ones are enumerated."""
    length = view.item_bytes
    outer: list[tuple[int, int]] = []
    for count, step in sorted((r for r in rest if r[0] > 1), key=lambda r: r[1]):
        if not outer and step == length:
            length *= count
        else:
            outer.append((count, step))
    outer.reverse()
    total = 1
    for count, _ in outer:
        total *= count
    if total > MAX_SEGMENTS:
        return []
    offsets = (
        sum(i * step for i, (_, step) in zip(index, outer, strict=True))
        for index in itertools.product(*(range(count) for count, _ in outer))
    )
    return [Run(view.buffer, view.offset + offset, stride, length) for offset in offsets]


def _is_sound(runs: list[Run], block_count: int) -> bool:
    """No two blocks share a byte: within a segment's reach the next block must not begin."""
    if block_count == 1:
        return True
    stride = runs[0].stride
    if stride < runs[0].length:
        return False
    spans = sorted((run.base % stride, run.length) for run in runs) if len(runs) > 1 else []
    if len(runs) == 1 or runs[-1].base - runs[0].base >= stride * block_count:
        return True  # one segment, or segments farther apart than all blocks together (K and V, layers)
    reach = [(start, start + length) for start, length in spans]
    return all(end <= nxt for (_, end), (nxt, _) in itertools.pairwise(reach)) and reach[-1][1] <= stride + reach[0][0]


def describe(view: View, block_count: int) -> str:
    """The meaning of a page's bytes, without where the tensor lies and how many blocks there are.

    `2B` is a dimension that counts kernel blocks, two to a block.
    """
    shape = tuple(f"{n // block_count}B" if n and n % block_count == 0 else n for n in view.shape)
    order = sorted(range(len(view.shape)), key=lambda d: -view.strides[d])
    return f"{shape} order {order} item {view.item_bytes}"


def view_of(tensor: Any, buffer: int) -> View:
    """The view of a torch tensor within its storage."""
    item = tensor.element_size()
    return View(
        buffer,
        tensor.storage_offset() * item,
        tuple(tensor.shape),
        tuple(stride * item for stride in tensor.stride()),
        item,
    )
