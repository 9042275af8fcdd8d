"""The TensorRT-LLM worker's staging memory: staged pages are put into the engine's blocks, piece by piece."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest
from cuda_stub import ECC_UNCORRECTABLE, Stub
from cuda_stub.memory import Device
from rekindle_plugins.contract.errors import DeviceError
from rekindle_plugins.contract.geometry import GroupGeometry, Run
from rekindle_plugins.tensorrt_llm.geometry import Pool
from rekindle_plugins.tensorrt_llm.messages import Copy
from rekindle_plugins.tensorrt_llm.staging import StagingMemory

PAGES = 6
STRIDE = 512


@pytest.fixture
def stream(device: Device) -> int:
    handle = ctypes.c_void_p()
    device.call("cuStreamCreate", ctypes.byref(handle), 1)
    return int(handle.value or 0)


@pytest.fixture
def pool(device: Device) -> Pool:
    """Pages of 64 + 3 · 32 bytes in two buffers."""
    buffers = ((device.alloc_vmm(PAGES * STRIDE), PAGES * STRIDE), (device.alloc(PAGES * STRIDE), PAGES * STRIDE))
    runs = (Run(0, 16, STRIDE, 64), Run(1, 0, STRIDE, 32, 3, 100))
    return Pool(buffers, PAGES, GroupGeometry(4, runs), "layout")


@pytest.fixture
def staging(pool: Pool) -> Iterator[StagingMemory]:
    memory = StagingMemory(pool, 0, 4)
    memory.region.validate()
    yield memory
    memory.close()


def test_a_page_goes_where_its_block_lies_and_nowhere_else(
    device: Device, pool: Pool, staging: StagingMemory, stream: int
) -> None:
    page = os.urandom(pool.part_bytes)
    os.pwrite(staging.fd, page, staging.region.groups[0].runs[0].stride * 3)
    for address, size in pool.buffers:
        device.fill(address, 0, size)
    staging.put([Copy(3, 2)], stream)
    first, second = (device.read(address, size) for address, size in pool.buffers)
    want_first, want_second = bytearray(len(first)), bytearray(len(second))
    want_first[2 * STRIDE + 16 : 2 * STRIDE + 80] = page[:64]
    for index in range(3):
        at = 2 * STRIDE + 100 * index
        want_second[at : at + 32] = page[64 + 32 * index : 96 + 32 * index]
    assert (first, second) == (bytes(want_first), bytes(want_second))


def test_the_memory_is_page_locked_once_and_when_it_is_first_used(
    stub: Stub, staging: StagingMemory, stream: int
) -> None:
    assert stub.pinned_bytes == 0
    for _ in range(2):
        staging.put([Copy(0, 0), Copy(1, 1)], stream)
        assert stub.pinned_bytes == 4 * 4096


@pytest.mark.parametrize("copy", [Copy(0, PAGES), Copy(4, 0), Copy(-1, 0), Copy(0, -1)])
def test_a_block_that_is_none_is_refused(staging: StagingMemory, stream: int, copy: Copy) -> None:
    with pytest.raises(DeviceError, match="no such block"):
        staging.put([copy], stream)


def test_a_copy_that_the_driver_refuses_is_an_error(stub: Stub, staging: StagingMemory, stream: int) -> None:
    stub.fail("cuMemcpyHtoDAsync_v2", ECC_UNCORRECTABLE)
    with pytest.raises(DeviceError, match="ECC_UNCORRECTABLE"):
        staging.put([Copy(0, 0)], stream)
