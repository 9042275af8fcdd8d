"""The copier's moves against a straightforward reference, and its refusals, which leave everything as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xxhash
from copier_samples import LAYOUTS, PAGES, SLOTS, Place
from exploring import Choices, Interleaving, Steps, explore
from rekindle.copier import memory as memory_module
from rekindle.copier.protocol import NO_CHECKSUM, LoadRow, SaveRow, Status

GROUPS = [(layout, group) for layout in LAYOUTS for group in range(len(LAYOUTS[layout][1]))]


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place.of("keys and values apart")
    yield made
    made.close()


@pytest.mark.parametrize(("layout", "group"), GROUPS)
def test_a_saved_page_is_in_its_slot_and_nothing_else_changed(layout: str, group: int) -> None:
    place = Place.of(layout)
    memory = place.map()
    for slot, page_id in enumerate([PAGES - 1, 0, 2]):
        page, engine, arena = place.page(page_id, group), place.engine_bytes(), bytearray(place.arena_bytes())
        done = memory.save(SaveRow(slot, page_id, group, 0))
        assert (done.slot, done.page_id, done.status) == (slot, page_id, Status.OK)
        assert done.checksum == xxhash.xxh3_128_digest(page)
        start = place.part.base + slot * place.part.stride
        arena[start : start + len(page)] = page
        assert place.arena_bytes() == arena
        assert place.engine_bytes() == engine
    assert memory.part_bytes(group) == len(place.page(0, group))
    place.close()


@pytest.mark.parametrize(("layout", "group"), GROUPS)
def test_a_page_goes_to_a_slot_and_comes_back_into_another_page(layout: str, group: int) -> None:
    place = Place.of(layout)
    memory = place.map()
    saved = place.page(1, group)
    checksum = memory.save(SaveRow(3, 1, group, 0)).checksum
    others = {page_id: place.page(page_id, group) for page_id in range(PAGES) if page_id != 4}
    arena = place.arena_bytes()
    place.fence.raise_pages([4])
    done = memory.load(LoadRow(3, 4, group, 1, checksum))
    assert done.status is Status.OK
    assert place.page(4, group) == saved
    assert {page_id: place.page(page_id, group) for page_id in others} == others
    assert place.arena_bytes() == arena
    place.close()


def test_a_page_whose_fence_had_moved_is_not_saved(place: Place) -> None:
    memory = place.map()
    place.fence.raise_pages([2])
    arena = place.arena_bytes()
    for epoch in (0, 2, (1 << 64) - 1):
        done = memory.save(SaveRow(0, 2, 0, epoch))
        assert (done.status, done.checksum) == (Status.FENCE_MOVED, NO_CHECKSUM)
    assert place.arena_bytes() == arena


def test_a_page_whose_fence_moved_during_the_copy_is_not_accepted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = place.map()
    copy = np.copyto

    def copy_and_move(target: Any, source: Any) -> None:
        copy(target, source)
        place.fence.raise_pages([2])

    monkeypatch.setattr(memory_module.np, "copyto", copy_and_move)
    done = memory.save(SaveRow(0, 2, 0, 0))
    assert (done.status, done.checksum) == (Status.FENCE_MOVED, NO_CHECKSUM)


@pytest.mark.parametrize("checks_after", [True, False])
def test_no_order_of_an_engines_writes_and_a_real_save_accepts_a_torn_page(
    monkeypatch: pytest.MonkeyPatch, checks_after: bool
) -> None:
    """`HostMemory.save` itself, cut before every look at the fence and every copy. Without the second look, one is."""
    layout, group = "several buffers", 0
    torn = 0
    accepted = 0

    def writing(place: Place, memory: Any) -> Steps:
        place.fence.raise_pages([1])
        yield "raised"
        for run in memory._engine[group]:
            run[1] += 1
            yield "written"

    class HookedFence:
        def __init__(self, fence: Any, pause: Interleaving) -> None:
            self._fence, self._pause = fence, pause
            self._first: int | None = None

        def __getitem__(self, page_id: int) -> int:
            self._pause.run_some("fence")
            if self._first is None or checks_after:
                self._first = int(self._fence[page_id])
            return self._first

    def scenario(choices: Choices) -> None:
        nonlocal torn, accepted
        place = Place.of(layout)
        memory = place.map()
        committed = place.page(1, group)
        # Each order is run to its end, so the state says where each side is and what was copied until then.
        order: list[object] = []
        pause = Interleaving(choices, lambda: tuple(order), writing(place, memory))

        def hooked_copy(target: Any, source: Any) -> None:
            pause.run_some("copy")
            target[...] = source
            order.append(hash(target.tobytes()))

        with monkeypatch.context() as patch:
            patch.setattr(memory_module.np, "copyto", hooked_copy)
            patch.setattr(memory, "_fence", HookedFence(memory._fence, pause))
            done = memory.save(SaveRow(0, 1, group, 0))
        if done.status is Status.OK:
            accepted += 1
            torn += place.slot(0, group) != committed
        place.close()

    assert explore(scenario) > 10
    assert accepted
    assert (torn == 0) == checks_after


def test_a_slot_with_a_wrong_checksum_is_not_loaded_and_the_page_is_not_touched(place: Place) -> None:
    memory = place.map()
    checksum = memory.save(SaveRow(1, 0, 0, 0)).checksum
    engine = place.engine_bytes()
    damaged = bytes([checksum[0] ^ 1]) + checksum[1:]
    assert memory.load(LoadRow(1, 3, 0, 0, damaged)).status is Status.CHECKSUM
    memory._slots[0][1][1][0, 5] ^= 1
    assert memory.load(LoadRow(1, 3, 0, 0, checksum)).status is Status.CHECKSUM
    assert place.engine_bytes() == engine


def test_a_page_that_was_given_up_is_not_touched(place: Place) -> None:
    memory = place.map()
    checksum = memory.save(SaveRow(1, 0, 0, 0)).checksum
    place.fence.raise_pages([3])
    engine = place.engine_bytes()
    for epoch in (0, 2):
        assert memory.load(LoadRow(1, 3, 0, epoch, checksum)).status is Status.FENCE_MOVED
    assert place.engine_bytes() == engine


@pytest.mark.parametrize(("slot", "page_id", "group"), [(SLOTS, 0, 0), (0, PAGES, 0), (0, 0, 1), (1 << 31, 1 << 31, 7)])
def test_rows_out_of_range_are_refused(place: Place, slot: int, page_id: int, group: int) -> None:
    memory = place.map()
    engine, arena = place.engine_bytes(), place.arena_bytes()
    assert memory.save(SaveRow(slot, page_id, group, 0)).status is Status.OUT_OF_RANGE
    assert memory.load(LoadRow(slot, page_id, group, 0, NO_CHECKSUM)).status is Status.OUT_OF_RANGE
    assert (place.engine_bytes(), place.arena_bytes()) == (engine, arena)
