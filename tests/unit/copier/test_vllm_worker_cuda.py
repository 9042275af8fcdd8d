"""The vLLM worker's shim over GPU tensors: one buffer for each storage, exported where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from cuda_stub import Stub
from cuda_stub.memory import Device
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM
from rekindle_plugins.vllm.support import UnsupportedError
from rekindle_plugins.vllm.worker import _share


@dataclass
class FakeTensor:
    """What the shim asks of a torch tensor."""

    address: int
    size: int
    where: str = "cuda"

    @property
    def device(self) -> SimpleNamespace:
        return SimpleNamespace(type=self.where)

    def untyped_storage(self) -> SimpleNamespace:
        return SimpleNamespace(data_ptr=lambda: self.address, nbytes=lambda: self.size)


@pytest.mark.parametrize("kind", [CUDA_IPC, CUDA_VMM])
def test_layers_that_share_a_storage_share_a_buffer(stub: Stub, device: Device, kind: str) -> None:
    make = device.alloc if kind == CUDA_IPC else device.alloc_vmm
    first, second = make(1 << 17) + 4096, make(1 << 16)
    tensors = {"a": FakeTensor(first, 8192), "b": FakeTensor(second, 1 << 16), "c": FakeTensor(first, 8192)}
    shared = _share(tensors)
    assert (shared.kind, shared.sizes, shared.indices) == (kind, (8192, 1 << 16), {first: 0, second: 1})
    assert [place.offset for place in shared.devices] == [4096, 0]
    assert len(shared.fds) == (2 if kind == CUDA_VMM else 0)


def test_memory_that_cannot_be_shared_turns_the_shim_off_with_the_reason(stub: Stub, device: Device) -> None:
    address = device.alloc_vmm(1 << 16, handle_types=0)
    with pytest.raises(UnsupportedError, match="enable-sleep-mode"):
        _share({"a": FakeTensor(address, 4096)})
    with pytest.raises(UnsupportedError, match="KV-cache memory on cpu and cuda is not supported"):
        _share({"a": FakeTensor(address, 4096), "b": FakeTensor(4096, 4096, "cpu")})
