"""What a region says about GPU memory: it survives its way, and nonsense is a typed error."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from rekindle_plugins.contract import DeviceBuffer, GeometryError, GroupGeometry, Region, Run
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM

GPU, HANDLE = "4d1f" * 8, "ab" * 64
GROUPS = (GroupGeometry(4, (Run(0, 0, 64, 64), Run(1, 0, 64, 64))),)
SIZES = (1024, 512)
IPC = Region(
    0, CUDA_IPC, 8, SIZES, GROUPS, devices=(DeviceBuffer(GPU, 0, (1024,), HANDLE), DeviceBuffer(GPU, 8, (520,), HANDLE))
)
VMM = Region(0, CUDA_VMM, 8, SIZES, GROUPS, devices=(DeviceBuffer(GPU, 40, (64, 1024)), DeviceBuffer(GPU, 0, (512,))))


@pytest.mark.parametrize(("region", "descriptors"), [(IPC, 0), (VMM, 3)])
def test_a_gpu_region_survives_its_way(region: Region, descriptors: int) -> None:
    assert Region.from_json(region.to_json()) == region
    assert region.descriptor_count == descriptors


def test_shared_memory_brings_a_descriptor_for_each_buffer_and_no_place_on_a_gpu() -> None:
    region = Region(0, "shm", 8, SIZES, GROUPS)
    assert Region.from_json(region.to_json()).descriptor_count == 2
    with pytest.raises(GeometryError, match="does not lie on a GPU"):
        Region(0, "shm", 8, SIZES, GROUPS, devices=VMM.devices).validate()


WRONG: list[tuple[Region, str, Any, str]] = [
    (IPC, "gpu", "GPU-0", "not a UUID"),
    (IPC, "gpu", "", "not a UUID"),
    (IPC, "gpu", "zz" * 16, "not a UUID"),
    (IPC, "gpu", "0" * 32, "more than one GPU"),
    (IPC, "handle", "", "does not name one allocation"),
    (IPC, "handle", "ab" * 63, "does not name one allocation"),
    (IPC, "pieces", [1024, 1024], "does not name one allocation"),
    (IPC, "pieces", [], "have"),
    (IPC, "pieces", [0], "have"),
    (IPC, "pieces", [1023], "leave an allocation"),
    (IPC, "pieces", [1 << 60], "have"),
    (IPC, "offset", 1, "leave an allocation"),
    (IPC, "offset", -1, "leave an allocation"),
    (IPC, "offset", True, "malformed"),
    (IPC, "pieces", ["1024"], "malformed"),
    (IPC, "pieces", 7, "malformed"),
    (VMM, "handle", HANDLE, "comes with descriptors"),
    (VMM, "offset", 65, "leave an allocation"),
    (VMM, "pieces", [64] * 251, "more than 250 pieces"),
]


@pytest.mark.parametrize(("region", "field", "value", "said"), WRONG)
def test_nonsense_about_a_gpu_buffer_is_a_geometry_error(region: Region, field: str, value: Any, said: str) -> None:
    data = copy.deepcopy(region.to_json())
    data["devices"][0][field] = value
    with pytest.raises(GeometryError, match=said):
        Region.from_json(data)


@pytest.mark.parametrize("devices", [[], [{}], [None], "x", 3])
def test_missing_or_malformed_places_are_geometry_errors(devices: Any) -> None:
    with pytest.raises(GeometryError):
        Region.from_json(IPC.to_json() | {"devices": devices})
