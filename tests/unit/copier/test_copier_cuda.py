"""Copiers of GPU memory: real processes, the real bindings, and a stand-in for the driver library beneath them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import pytest
import xxhash
from copier_samples import LAYOUTS, PAGES
from cuda_samples import KINDS, CudaPlace
from cuda_stub import ECC_UNCORRECTABLE, INVALID_CONTEXT, INVALID_VALUE, OTHER_GPU, OUT_OF_MEMORY, Stub
from cuda_stub.memory import Device
from rekindle.copier import cuda as cuda_module
from rekindle.copier.cuda import CudaMemory
from rekindle.copier.protocol import NO_CHECKSUM, DoneRow, LoadRow, SaveRow, Status, pack_loads, pack_saves
from rekindle_plugins.client.cuda import export_buffers
from rekindle_plugins.contract.errors import DeviceError
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM
from test_copier_process import Harness


def run(place: CudaPlace, scenario: Callable[[Harness], Awaitable[None]]) -> None:
    async def main() -> None:
        harness = Harness(place)
        try:
            await scenario(harness)
        finally:
            await harness.close()

    asyncio.run(main())


async def become(probe: Callable[[], object], deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not probe():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def checksum(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("largest_pitch", [1 << 20, 32])
def test_pages_of_every_layout_go_out_and_come_back(
    stub: Stub, device: Device, kind: str, layout: str, largest_pitch: int
) -> None:
    stub.set(largest_pitch=largest_pitch)
    place = CudaPlace.on_gpu(device, kind, layout)
    memory = CudaMemory(place.region, place.buffers, place.arena, place.part, place.fence.fd)
    for group in range(len(place.region.groups)):
        page = place.page(2, group)
        saved = memory.save_rows([SaveRow(1, 2, group, 0), SaveRow(0, 9999, group, 0)])
        assert saved == [
            DoneRow(1, 2, Status.OK, checksum(page)),
            DoneRow(0, 9999, Status.OUT_OF_RANGE, NO_CHECKSUM),
        ]
        assert place.slot(1, group) == page
        before, target = place.engine_bytes(), place.page(4, group)
        [loaded] = memory.load_rows([LoadRow(1, 4, group, 0, checksum(page))])
        assert loaded.status is Status.OK
        assert place.page(4, group) == page
        assert count_changes(before, place.engine_bytes()) == count_changes([target], [page])
    place.close()


def count_changes(before: list[bytes], after: list[bytes]) -> int:
    return sum(a != b for old, new in zip(before, after, strict=True) for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_copier_saves_and_loads_rows_of_many_batches_in_order(
    stub: Stub, device: Device, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.set(delay_us=100)
    place = CudaPlace.on_gpu(device, kind, "several buffers")

    async def scenario(harness: Harness) -> None:
        pages = [place.page(page_id, 0) for page_id in range(4)]
        harness.copier.send(pack_saves([SaveRow(i, i, 0, 9 * (i == 2)) for i in range(4)]))
        await harness.until(lambda: len(harness.rows) == 4)
        assert [row.slot for row in harness.rows] == [0, 1, 2, 3]
        assert [row.status for row in harness.rows] == [Status.OK, Status.OK, Status.FENCE_MOVED, Status.OK]
        loads = [LoadRow(3, page_id % PAGES, 0, 0, harness.rows[3].checksum) for page_id in range(40)]
        harness.copier.send(pack_loads(loads))
        await harness.until(lambda: len(harness.rows) == 44)
        assert all(row.status is Status.OK for row in harness.rows[4:])
        assert [place.page(page_id, 0) for page_id in range(PAGES)] == [pages[3]] * PAGES

    run(place, scenario)


def test_batches_overlap_and_every_row_is_judged_after_its_own_copy(
    stub: Stub, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_module, "BATCH_BYTES", 1)
    place = CudaPlace.on_gpu(device, CUDA_IPC, "strided layers")
    memory = CudaMemory(place.region, place.buffers, place.arena, place.part, place.fence.fd)
    rows = [SaveRow(slot, slot, 0, 0) for slot in range(4)]
    place.fence.raise_pages([3])
    done = memory.save_rows(rows)
    assert [row.status for row in done] == [Status.OK] * 3 + [Status.FENCE_MOVED]
    assert [row.checksum for row in done[:3]] == [checksum(place.page(page_id, 0)) for page_id in range(3)]
    place.close()


def test_a_run_of_segments_is_one_2d_copy_where_the_device_can(stub: Stub, device: Device) -> None:
    place = CudaPlace.on_gpu(device, CUDA_IPC, "strided layers")

    async def scenario(harness: Harness) -> None:
        harness.copier.send(pack_saves([SaveRow(0, page, 0, 0) for page in range(PAGES)]))
        await harness.until(lambda: len(harness.rows) == PAGES)
        assert (stub.copies_begun, stub.copies_2d) == (PAGES, PAGES)

    run(place, scenario)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_that_is_overwritten_under_a_slow_copy_is_not_accepted(stub: Stub, device: Device, kind: str) -> None:
    """The fence is read again after the copy has completed, not after it was issued."""
    place = CudaPlace.on_gpu(device, kind, "strided layers")

    async def scenario(harness: Harness) -> None:
        await harness.until(lambda: harness.copier.is_ready)
        old = place.page(3, 0)
        stub.hold(True)
        harness.copier.send(pack_saves([SaveRow(0, 2, 0, 0), SaveRow(1, 3, 0, 0)]))
        await become(lambda: stub.copies_begun)
        place.fence.raise_pages([2])
        place.overwrite(2, 0xEE)
        stub.hold(False)
        await harness.until(lambda: len(harness.rows) == 2)
        assert [row.status for row in harness.rows] == [Status.FENCE_MOVED, Status.OK]
        assert b"\xee" in place.slot(0, 0), "without the second look a torn page had been accepted"
        assert place.slot(1, 0) == old

    run(place, scenario)


def test_a_load_is_answered_when_its_bytes_are_there_and_a_bad_or_given_up_page_is_not_touched(
    stub: Stub, device: Device
) -> None:
    place = CudaPlace.on_gpu(device, CUDA_VMM, "keys and values apart")

    async def scenario(harness: Harness) -> None:
        good, before = place.slot(1, 0), place.engine_bytes()
        place.fence.raise_pages([4])
        stub.hold(True)
        rows = [
            LoadRow(1, 0, 0, 0, checksum(good)),
            LoadRow(2, 1, 0, 0, NO_CHECKSUM),
            LoadRow(3, 4, 0, 0, checksum(place.slot(3, 0))),
        ]
        harness.copier.send(pack_loads(rows))
        await become(lambda: stub.copies_begun)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not harness.rows, "it was answered before its copy was complete"
        stub.hold(False)
        await harness.until(lambda: len(harness.rows) == 3)
        assert [row.status for row in harness.rows] == [Status.OK, Status.CHECKSUM, Status.FENCE_MOVED]
        assert place.page(0, 0) == good
        after = place.engine_bytes()
        place.overwrite(0, 0)
        assert sum(a != b for a, b in zip(before[0], after[0], strict=True)) <= len(good)

    run(place, scenario)


@pytest.mark.parametrize(("base", "stride"), [(8192, 8192), (64, None)])
def test_the_arena_is_page_locked_part_by_part_where_slots_are_whole_memory_pages(
    stub: Stub, device: Device, monkeypatch: pytest.MonkeyPatch, base: int, stride: int | None
) -> None:
    monkeypatch.setattr(cuda_module, "PIN_BYTES", 16384)
    place = CudaPlace.on_gpu(device, CUDA_IPC, "one run", base, stride)
    memory = CudaMemory(place.region, place.buffers, place.arena, place.part, place.fence.fd)
    pinned = []
    for slot in (0, 1, 3, 2):
        assert memory.save_rows([SaveRow(slot, slot, 0, 0)])[0].status is Status.OK
        pinned.append(stub.pinned_bytes)
    assert pinned == ([16384, 16384, 28672, 28672] if stride else [4096] * 4)
    place.close()


FAULTS = [
    ("cuInit", 100, "CUDA_ERROR_NO_DEVICE", "NVIDIA_VISIBLE_DEVICES"),
    ("cuDevicePrimaryCtxRetain", OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "no room"),
    ("cuIpcOpenMemHandle_v2", INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "shareProcessNamespace"),
    ("cuIpcOpenMemHandle_v2", OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "shareProcessNamespace"),
    ("cuMemHostRegister_v2", OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "page-locked"),
    ("cuMemcpy2DAsync_v2", INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", ""),
    ("async_copy", ECC_UNCORRECTABLE, "CUDA_ERROR_ECC_UNCORRECTABLE", "Xid"),
]


@pytest.mark.parametrize(("name", "result", "said", "hint"), FAULTS)
def test_a_driver_error_ends_the_copier_with_its_name_and_what_to_do(
    stub: Stub, device: Device, name: str, result: int, said: str, hint: str
) -> None:
    place = CudaPlace.on_gpu(device, CUDA_IPC, "strided layers")
    stub.fail(name, result)

    async def scenario(harness: Harness) -> None:
        harness.copier.send(pack_saves([SaveRow(0, 2, 0, 0)]))
        await harness.until(lambda: harness.gone)
        assert said in harness.gone[0]
        assert hint in harness.gone[0]
        assert not harness.rows, "nothing that was begun is answered"

    run(place, scenario)
    stub.reset()


def test_a_gpu_that_the_sidecar_does_not_see_is_named_with_those_it_sees(stub: Stub, device: Device) -> None:
    place = CudaPlace.on_gpu(device, CUDA_VMM, "one run").with_gpu(OTHER_GPU)

    async def scenario(harness: Harness) -> None:
        await harness.until(lambda: harness.gone)
        assert OTHER_GPU in harness.gone[0]
        assert "it is not among the GPUs that the sidecar sees (4d1f" in harness.gone[0]

    run(place, scenario)


def test_gpus_are_told_apart_by_uuid_whatever_their_order(
    stub: Stub, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = CudaPlace.on_gpu(device, CUDA_VMM, "one run")
    monkeypatch.setenv("CUDA_STUB_UUIDS", f"{OTHER_GPU},{place.region.devices[0].gpu}")

    async def scenario(harness: Harness) -> None:
        await harness.until(lambda: harness.copier.is_ready)

    run(place, scenario)


# -- the engine's side ---------------------------------------------------------------------------------------------


def test_memory_that_cannot_be_exported_is_refused_with_the_engines_setting(stub: Stub, device: Device) -> None:
    address = device.alloc_vmm(1 << 16, handle_types=0)
    with pytest.raises(DeviceError, match=r"enable-sleep-mode.*expandable_segments"):
        export_buffers([(address, 4096)])


def test_memory_of_both_kinds_in_one_region_and_no_device_memory_are_refused(stub: Stub, device: Device) -> None:
    with pytest.raises(DeviceError, match=r"some of it was made by cudaMalloc and some by cuMemCreate"):
        export_buffers([(device.alloc(4096), 4096), (device.alloc_vmm(4096), 4096)])
    with pytest.raises(DeviceError, match="CUDA_ERROR_INVALID_VALUE"):
        export_buffers([(4096, 4096)])


def test_a_cache_of_too_many_pieces_is_refused_and_no_descriptor_stays_open(stub: Stub, device: Device) -> None:
    address = device.alloc_vmm(*[1 << 16] * 252)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DeviceError, match="expandable_segments:False"):
        export_buffers([(address, 252 << 16)])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_driver_error_on_the_engines_side_has_the_drivers_name(stub: Stub, device: Device) -> None:
    address = device.alloc(4096)
    stub.fail("cuIpcGetMemHandle", INVALID_CONTEXT)
    with pytest.raises(DeviceError, match=r"CUDA_ERROR_INVALID_CONTEXT \(201\)"):
        export_buffers([(address, 4096)])
