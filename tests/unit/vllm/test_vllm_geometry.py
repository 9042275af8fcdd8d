"""Where the bytes of a vLLM block lie, told from shapes and strides alone: right, or refused."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle_plugins.contract import Region, Run
from rekindle_plugins.vllm.geometry import View, describe, group_geometry, layer_page
from rekindle_plugins.vllm.support import Group, UnsupportedError

ITEM = 4
BLOCKS = 7
TOKENS, HEADS, WIDTH = 16, 2, 8


def view(shape: Sequence[int], order: Sequence[int] | None = None, offset: int = 0, buffer: int = 0) -> View:
    """A tensor without gaps; `order` names its dimensions from the outermost in memory to the innermost."""
    strides = [0] * len(shape)
    step = ITEM
    for dim in reversed(order if order is not None else range(len(shape))):
        strides[dim] = step
        step *= shape[dim]
    return View(buffer, offset, tuple(shape), tuple(strides), ITEM)


def group(layers: int) -> Group:
    return Group(0, TOKENS, False, tuple(f"layer{i}" for i in range(layers)), "")


def page_bytes(shape: Sequence[int], block_count: int) -> int:
    return math.prod(shape) * ITEM // block_count


def bytes_of(runs: Sequence[Run], page_id: int) -> list[int]:
    return [
        run.base + page_id * run.stride + segment * run.step + i
        for run in runs
        for segment in range(run.count)
        for i in range(run.length)
    ]


def bytes_of_index(of: View, dim: int, index: Sequence[int]) -> list[int]:
    """The tensor's bytes where dimension `dim` has one of these indices: the slow way."""
    ranges = [index if d == dim else range(n) for d, n in enumerate(of.shape)]
    starts = (of.offset + sum(i * s for i, s in zip(at, of.strides, strict=True)) for at in itertools.product(*ranges))
    return [start + i for start in starts for i in range(of.item_bytes)]


@pytest.mark.parametrize(
    ("shape", "dim", "segments"),
    [
        pytest.param((2, BLOCKS, TOKENS, HEADS, WIDTH), 1, 2, id="K before V"),
        pytest.param((BLOCKS, 2, TOKENS, HEADS, WIDTH), 0, 1, id="K and V in a block"),
        pytest.param((BLOCKS, HEADS, TOKENS, 2 * WIDTH), 0, 1, id="since 0.29"),
        pytest.param((BLOCKS, TOKENS, WIDTH), 0, 1, id="MLA"),
    ],
)
def test_a_block_is_found_in_every_layout_that_vllm_uses(shape: tuple[int, ...], dim: int, segments: int) -> None:
    tensor = view(shape, offset=64)
    runs = layer_page(tensor, page_bytes(shape, BLOCKS), BLOCKS)
    assert len(runs) == segments
    for page_id in range(BLOCKS):
        assert sorted(bytes_of(runs, page_id)) == sorted(bytes_of_index(tensor, dim, [page_id]))


def test_kernel_blocks_are_put_together_to_a_block() -> None:
    shape = (2, 3 * BLOCKS, TOKENS, HEADS, WIDTH)
    tensor = view(shape)
    runs = layer_page(tensor, page_bytes(shape, BLOCKS), BLOCKS)
    for page_id in range(BLOCKS):
        wanted = bytes_of_index(tensor, 1, range(3 * page_id, 3 * page_id + 3))
        assert sorted(bytes_of(runs, page_id)) == sorted(wanted)


def test_layers_one_after_the_other_in_one_allocation_become_one_run() -> None:
    shape = (BLOCKS, HEADS, TOKENS, 2 * WIDTH)
    layer_bytes = math.prod(shape) * ITEM
    views = [view(shape, offset=layer * layer_bytes) for layer in range(5)]
    size = page_bytes(shape, BLOCKS)
    geometry = group_geometry(group(5), views, [size] * 5, BLOCKS)
    assert geometry.runs == (Run(0, 0, size, size, 5, layer_bytes),)
    Region(0, "shm", BLOCKS, (5 * layer_bytes,), (geometry,)).validate()


def test_blocks_outermost_with_all_layers_inside_become_one_segment() -> None:
    layers, size = 5, HEADS * TOKENS * WIDTH * ITEM
    strides = (layers * size, TOKENS * WIDTH * ITEM, WIDTH * ITEM, ITEM)
    views = [View(0, layer * size, (BLOCKS, HEADS, TOKENS, WIDTH), strides, ITEM) for layer in range(layers)]
    geometry = group_geometry(group(layers), views, [size] * layers, BLOCKS)
    assert geometry.runs == (Run(0, 0, layers * size, layers * size),)
    Region(0, "shm", BLOCKS, (layers * size * BLOCKS,), (geometry,)).validate()


def test_layers_that_share_a_tensor_are_copied_once() -> None:
    shape = (BLOCKS, HEADS, TOKENS, WIDTH)
    size = page_bytes(shape, BLOCKS)
    views = [view(shape), view(shape, buffer=1), view(shape)]
    geometry = group_geometry(group(3), views, [size] * 3, BLOCKS)
    assert geometry.part_bytes == 2 * size


def test_a_shape_with_two_dimensions_that_could_count_the_blocks_is_refused() -> None:
    shape = (BLOCKS, BLOCKS, WIDTH)
    with pytest.raises(UnsupportedError, match="2 dimensions"):
        layer_page(view(shape), page_bytes(shape, BLOCKS), BLOCKS)


@pytest.mark.parametrize("wrong", [-ITEM, ITEM])
def test_a_page_of_another_size_than_the_spec_says_is_refused(wrong: int) -> None:
    shape = (BLOCKS, HEADS, TOKENS, WIDTH)
    with pytest.raises(UnsupportedError, match="0 dimensions"):
        layer_page(view(shape), page_bytes(shape, BLOCKS) + wrong, BLOCKS)


def test_blocks_that_share_bytes_are_refused() -> None:
    overlapping = View(0, 0, (BLOCKS, 64), (32 * ITEM, ITEM), ITEM)
    with pytest.raises(UnsupportedError, match="0 dimensions"):
        layer_page(overlapping, 64 * ITEM, BLOCKS)


def test_a_page_in_too_many_pieces_is_refused() -> None:
    shape = (8192, BLOCKS, 1)
    with pytest.raises(UnsupportedError, match="0 dimensions"):
        layer_page(view(shape), page_bytes(shape, BLOCKS), BLOCKS)


@settings(deadline=None)
@given(st.data())
def test_the_runs_of_all_blocks_share_out_the_tensor_among_them(data: st.DataObject) -> None:
    block_count = data.draw(st.sampled_from([1, 2, 5, 11]))
    per_block = data.draw(st.integers(1, 3))
    others = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3))
    dim = data.draw(st.integers(0, len(others)))
    shape = [*others[:dim], block_count * per_block, *others[dim:]]
    order = data.draw(st.permutations(range(len(shape))))
    tensor = view(shape, order, offset=data.draw(st.sampled_from([0, 128])))
    try:
        runs = layer_page(tensor, page_bytes(shape, block_count), block_count)
    except UnsupportedError:
        return  # ambiguous shapes are refused, see above
    counts = Counter(offset for page_id in range(block_count) for offset in bytes_of(runs, page_id))
    assert set(counts.values()) == {1}
    assert set(counts) == set(range(tensor.offset, tensor.offset + math.prod(shape) * ITEM))


@settings(deadline=None)
@given(st.permutations(range(5)), st.integers(1, 3))
def test_a_layout_is_only_refused_when_it_is_ambiguous(order: list[int], per_block: int) -> None:
    shape = (2, BLOCKS * per_block, TOKENS, HEADS, WIDTH)
    runs = layer_page(view(shape, order), page_bytes(shape, BLOCKS), BLOCKS)
    for page_id in (0, 1, BLOCKS - 1):
        wanted = bytes_of_index(view(shape, order), 1, range(per_block * page_id, per_block * (page_id + 1)))
        assert sorted(bytes_of(runs, page_id)) == sorted(wanted)


@settings(deadline=None)
@given(st.permutations(range(4)), st.permutations(range(4)))
def test_a_layout_has_one_description_whatever_the_number_of_blocks(one: list[int], other: list[int]) -> None:
    def text(block_count: int, order: list[int]) -> str:
        return describe(view((2 * block_count, HEADS, TOKENS, WIDTH), order), block_count)

    assert (text(101, one) == text(211, other)) == (one == other)
