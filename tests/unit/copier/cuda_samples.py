"""An engine's region in device memory (the stand-in's, or a real GPU's), shared either way."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace

from copier_samples import LAYOUTS, PAGES, SLOTS, Place, filled
from cuda_stub.memory import Device
from rekindle.copier.memory import ArenaPart
from rekindle_plugins.client.cuda import export_buffers
from rekindle_plugins.contract import Fence, Region
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM

KINDS = [CUDA_IPC, CUDA_VMM]


@dataclass
class CudaPlace(Place):
    """As `Place`, with the engine's memory on the GPU."""

    addresses: list[int] = field(default_factory=list)
    device: Device | None = None

    @staticmethod
    def on_gpu(device: Device, kind: str, layout: str, base: int = 64, stride: int | None = None) -> CudaPlace:
        """Buffers of random bytes that begin somewhere in their allocations (VMM: in the first of two)."""
        sizes, groups = LAYOUTS[layout]
        source = random.Random(1)
        addresses = []
        for size in sizes:
            if kind == CUDA_IPC:
                addresses.append(device.alloc(size + 512) + 256)
            else:
                granule = device.granule()
                addresses.append(device.alloc_vmm(granule, size) + granule - min(granule, size // 2))
            device.write(addresses[-1], source.randbytes(size))
        exported = export_buffers(list(zip(addresses, sizes, strict=True)))
        region = Region.from_json(Region(0, exported.kind, PAGES, sizes, groups, devices=exported.devices).to_json())
        assert region.kind == kind
        assert region.descriptor_count == len(exported.fds)
        part = ArenaPart(base, stride or region.part_bytes + 32, region.part_bytes, SLOTS)
        arena = filled(source.randbytes(base + SLOTS * part.stride))
        return CudaPlace(region, part, list(exported.fds), arena, Fence.create(PAGES), None, addresses, device)

    def with_gpu(self, uuid: str) -> CudaPlace:
        """Says that its memory lies on another GPU."""
        devices = tuple(replace(device, gpu=uuid) for device in self.region.devices)
        self.region = replace(self.region, devices=devices)
        return self

    def engine_bytes(self) -> list[bytes]:
        assert self.device is not None
        return [self.device.read(*buffer) for buffer in zip(self.addresses, self.region.sizes, strict=True)]

    def overwrite(self, page_id: int, byte: int, group: int = 0) -> None:
        """What an engine's step would do to a page."""
        assert self.device is not None
        for run in self.region.groups[group].runs:
            for segment in range(run.count):
                at = self.addresses[run.buffer] + run.base + page_id * run.stride + segment * run.step
                self.device.fill(at, byte, run.length)
        self.device.synchronize()

    def close(self) -> None:
        for fd in (*self.buffers, self.arena):
            os.close(fd)
        self.fence.close()
