"""KV caches in GPU memory, made the two ways in which engines make it, and seen by the nano engine as its own.

memory     who uses it
stand-in   tests without a GPU: a device address of the stand-in can be read and written by numpy
torch      tests with one: K and V are written and gathered by torch on the GPU
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
from cuda_stub.memory import Device
from nano_engine.cache import FloatArray, Geometry, KVCache, PageIds


class StandInKVCache(KVCache):
    """Over the stand-in's memory."""

    def __init__(self, geometry: Geometry, model_digest: str) -> None:
        self.geometry = geometry
        self.model_digest = model_digest
        self.total_bytes = geometry.pages * geometry.page_bytes
        device = Device()
        is_vmm = os.environ["CUDA_ENGINE_SHARING"] == "cuda_vmm"
        self.address = device.alloc_vmm(self.total_bytes) if is_vmm else device.alloc(self.total_bytes)
        memory = (ctypes.c_char * self.total_bytes).from_address(self.address)
        self.array: FloatArray = np.frombuffer(memory, dtype=np.float32).reshape(geometry.shape)
        self._rows = self.array.reshape(geometry.pages * geometry.layers * 2, -1)
        self._gathered: FloatArray = np.zeros((2, geometry.pages, self._rows.shape[1]), dtype=np.float32)

    def close(self) -> None:
        pass


class _DeviceArray:
    """Memory that torch did not allocate, as it takes it: the CUDA array interface."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


class TorchKVCache(KVCache):
    """In a real GPU's memory: torch's own (cudaMalloc), or VMM memory."""

    def __init__(self, geometry: Geometry, model_digest: str) -> None:
        import torch

        self.geometry = geometry
        self.model_digest = model_digest
        self.total_bytes = geometry.pages * geometry.page_bytes
        torch.cuda.init()
        if os.environ["CUDA_ENGINE_SHARING"] == "cuda_vmm":
            self._memory = _DeviceArray(Device().alloc_vmm(self.total_bytes), self.total_bytes)
            raw = torch.as_tensor(self._memory, device="cuda")
        else:
            raw = torch.empty(self.total_bytes, dtype=torch.uint8, device="cuda")
        raw.zero_()
        self._torch: Any = torch
        self.address = int(raw.data_ptr())
        self._tensor = raw.view(torch.float32).view(geometry.shape)
        self._flat = self._tensor.view(geometry.pages * geometry.layers * 2, -1)
        torch.cuda.synchronize()

    def write(self, page_id: int, layer: int, first_row: int, k: FloatArray, v: FloatArray) -> None:
        rows = slice(first_row, first_row + len(k))
        both = self._torch.from_numpy(np.ascontiguousarray(np.stack((k, v))))
        self._tensor[page_id, layer, :, rows] = both.to("cuda")

    def gather(self, page_ids: PageIds, layer: int, tokens: int) -> tuple[FloatArray, FloatArray]:
        first = self._torch.from_numpy(np.asarray((page_ids * self.geometry.layers + layer) * 2, dtype=np.int64))
        first = first.to("cuda")
        keys, values = (self._flat[first + k_or_v].cpu().numpy().reshape(-1, self.geometry.width) for k_or_v in (0, 1))
        keys[tokens:] = 0.0
        values[tokens:] = 0.0
        return keys, values

    def close(self) -> None:
        pass


CACHES = {"stand-in": StandInKVCache, "torch": TorchKVCache}
