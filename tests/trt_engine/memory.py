"""KV caches of the two managers, in the memory of the stand-in for the CUDA driver, seen by the nano model as its own.

V1   one pool [blocks, layers, K/V, tokens, width] from cudaMalloc, registered as a tensor
V2   two VMM pools: K of both layers side by side in one slot; V of the layers apart, with a gap (two regions that
     interleave), registered as a layout
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda_stub.memory import Device
from nano_engine.cache import FloatArray, Geometry, PageIds

ITEM = 4
GAP_BYTES = 256


@dataclass(frozen=True)
class Tensor:
    """What the shim asks of a torch tensor."""

    address: int
    shape: tuple[int, ...]

    dtype = "float32"
    device = SimpleNamespace(type="cuda")

    def data_ptr(self) -> int:
        return self.address

    def element_size(self) -> int:
        return ITEM

    def stride(self) -> tuple[int, ...]:
        strides = [1]
        for count in reversed(self.shape[1:]):
            strides.insert(0, strides[0] * count)
        return tuple(strides)


class RankCache:
    """One rank's memory. `keys` and `values` have shape (pages, layers, tokens, width), strided over it."""

    def __init__(self, geometry: Geometry, manager: str) -> None:
        self.geometry = geometry
        self._manager = manager
        self._regions: list[Any] = []
        device = Device()
        pages, layers, tokens, width = geometry.pages, geometry.layers, geometry.page_tokens, geometry.width
        layer = tokens * width * ITEM
        if manager == "v1":
            self.address = device.alloc(pages * geometry.page_bytes)
            self.keys = self._view(self.address, geometry.page_bytes, 2 * layer)
            self.values = self._view(self.address + layer, geometry.page_bytes, 2 * layer)
            return
        slot = layers * (layer + GAP_BYTES)
        key_base, value_base = device.alloc_vmm(pages * layers * layer), device.alloc_vmm(pages * slot)
        self.keys = self._view(key_base, layers * layer, layer)
        self.values = self._view(value_base, slot, layer + GAP_BYTES)
        self._regions.append(self._region(key_base, layers * layer, layers * layer, "key", range(layers)))
        for index in range(layers):
            base = value_base + index * (layer + GAP_BYTES)
            self._regions.append(self._region(base, layer, slot, "value", [index]))

    def _view(self, address: int, page_stride: int, layer_stride: int) -> FloatArray:
        geometry = self.geometry
        shape = (geometry.pages, geometry.layers, geometry.page_tokens, geometry.width)
        size = (geometry.pages - 1) * page_stride + geometry.layers * layer_stride
        memory = (ctypes.c_char * size).from_address(address)
        return np.ndarray(shape, np.float32, memory, 0, (page_stride, layer_stride, geometry.width * ITEM, ITEM))

    def _region(self, base: int, size: int, stride: int, role: str, layers: Any) -> Any:
        buffers = tuple(SimpleNamespace(layer_id=layer, role=role, expansion=1) for layer in layers)
        return SimpleNamespace(base=base, size=size, stride=stride, num_slots=self.geometry.pages, buffers=buffers)

    def register(self, worker: Any) -> None:
        """As the executor does it, once."""
        if self._manager == "v1":
            geometry = self.geometry
            shape = (geometry.pages, geometry.layers, 2, geometry.page_tokens * geometry.width)
            worker.register_kv_caches(Tensor(self.address, shape))
            return
        layers = tuple(range(self.geometry.layers))
        group = SimpleNamespace(
            layer_group_id=0, layer_ids=layers, window_size=None, regions=self._regions, replicated_regions=()
        )
        worker.register_kv_cache_layout(
            SimpleNamespace(tokens_per_block=self.geometry.page_tokens, groups=(group,), gpu_pool_mapping_bytes=None)
        )


class Cache:
    """All ranks' memory as the model's cache. Each rank has all of K and V; K is read from the first, V from the last,
    so that a wrong byte in either changes the tokens."""

    def __init__(self, geometry: Geometry, manager: str, ranks: int) -> None:
        self.geometry = geometry
        self.ranks = [RankCache(geometry, manager) for _ in range(ranks)]

    def write(self, page_id: int, layer: int, first_row: int, k: FloatArray, v: FloatArray) -> None:
        for rank in self.ranks:
            rank.keys[page_id, layer, first_row : first_row + len(k)] = k
            rank.values[page_id, layer, first_row : first_row + len(v)] = v

    def gather(self, page_ids: PageIds, layer: int, tokens: int) -> tuple[FloatArray, FloatArray]:
        keys = self.ranks[0].keys[page_ids, layer].reshape(-1, self.geometry.width)
        values = self.ranks[-1].values[page_ids, layer].reshape(-1, self.geometry.width)
        keys[tokens:] = 0.0
        values[tokens:] = 0.0
        return keys, values

    def scribble(self, page_id: int) -> None:
        for rank in self.ranks:
            rank.keys[page_id] = 7.0
            rank.values[page_id] = 7.0
