"""Where a block's bytes lie, from V1's tensor and V2's layout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rekindle_plugins.contract.geometry import Region
from rekindle_plugins.contract.sharing import SHM
from rekindle_plugins.tensorrt_llm.geometry import Pool, pool_of_layout, pool_of_tensor, segments
from rekindle_plugins.tensorrt_llm.staging import staging_pages
from rekindle_plugins.tensorrt_llm.support import UnsupportedError


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], device: str = "cuda") -> Any:
    return SimpleNamespace(
        shape=shape,
        stride=lambda: strides,
        element_size=lambda: 2,
        data_ptr=lambda: 4096,
        dtype="bfloat16",
        device=SimpleNamespace(type=device),
    )


def region(base: int, size: int, stride: int, slots: int = 8, **more: Any) -> Any:
    buffers = (SimpleNamespace(layer_id=0, role="key", **{"expansion": 1} | more),)
    return SimpleNamespace(base=base, size=size, stride=stride, num_slots=slots, buffers=buffers)


def layout(*regions: Any, window: int | None = None, groups: int = 1, replicated: tuple[Any, ...] = ()) -> Any:
    group = SimpleNamespace(window_size=window, regions=regions, replicated_regions=replicated)
    return SimpleNamespace(tokens_per_block=32, groups=(group,) * groups)


def check(pool: Pool) -> None:
    sizes = tuple(size for _, size in pool.buffers)
    Region(0, SHM, pool.page_count, sizes, (pool.group,)).validate()


def test_v1_a_row_of_the_pool_is_a_block() -> None:
    pool = pool_of_tensor(tensor((8, 2, 2, 64), (256, 128, 64, 1)), 32)
    check(pool)
    assert (pool.page_count, pool.part_bytes, pool.buffers) == (8, 512, ((4096, 8 * 512),))
    assert segments(pool, 3) == [(4096 + 3 * 512, 0, 512)]


def test_v1_rows_with_room_between_them_are_blocks_too() -> None:
    pool = pool_of_tensor(tensor((8, 2, 2, 64), (300, 128, 64, 1)), 32)
    check(pool)
    assert pool.buffers == ((4096, 7 * 600 + 512),)
    assert segments(pool, 7) == [(4096 + 7 * 600, 0, 512)]


@pytest.mark.parametrize(
    ("shape", "strides", "device"),
    [
        ((8, 2, 2, 64), (128, 1024, 64, 1), "cuda"),
        ((8, 2, 2, 64), (128, 128, 64, 1), "cuda"),
        ((8, 64), (64, 1), "cuda"),
        ((8, 2, 2, 64), (256, 128, 64, 1), "cpu"),
    ],
)
def test_v1_other_tensors_are_refused(shape: tuple[int, ...], strides: tuple[int, ...], device: str) -> None:
    with pytest.raises(UnsupportedError):
        pool_of_tensor(tensor(shape, strides, device), 32)


def test_v2_regions_of_one_slot_interleave_in_one_buffer() -> None:
    pool = pool_of_layout(layout(region(10_000, 64, 256), region(10_128, 32, 256), region(50_000, 16, 16)))
    check(pool)
    assert pool.buffers == ((10_000, 7 * 256 + 160), (50_000, 128))
    assert segments(pool, 2) == [(10_512, 0, 64), (10_640, 64, 32), (50_032, 96, 16)]
    assert pool.part_bytes == 112


def test_v2_replicated_regions_are_part_of_a_page() -> None:
    pool = pool_of_layout(layout(region(10_000, 64, 64), replicated=(region(20_000, 8, 8),)))
    assert segments(pool, 1) == [(10_064, 0, 64), (20_008, 64, 8)]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (layout(region(0, 8, 8), groups=2), "2 layer groups"),
        (layout(region(0, 8, 8), window=128), "sliding windows"),
        (layout(region(0, 8, 8), region(100, 8, 8, slots=9)), "pages"),
        (layout(region(0, 8, 8, expansion=2)), "different lengths"),
        (layout(), "pages"),
    ],
)
def test_v2_layouts_that_could_not_be_put_back_are_refused(given: Any, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        pool_of_layout(given)


def test_layouts_of_another_meaning_are_told_apart_and_places_are_not() -> None:
    here, there = pool_of_layout(layout(region(0, 8, 8))), pool_of_layout(layout(region(640, 8, 8, slots=20)))
    assert here.layout == there.layout
    assert here.layout != pool_of_layout(layout(region(0, 16, 16))).layout


def test_staging_memory_has_room_for_whole_pages() -> None:
    pool = pool_of_tensor(tensor((8, 2, 2, 64), (256, 128, 64, 1)), 32)
    assert [staging_pages(pool, size) for size in (0, 4095, 3 * 4096, 1 << 30)] == [0, 0, 3, 8]
