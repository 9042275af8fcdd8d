"""An engine's region, a fence and an arena in shared memory, and what a page of them is, told byte by byte."""

from __future__ import annotations

import mmap
import os
import random
from dataclasses import dataclass

from rekindle.copier.memory import ArenaPart, HostMemory
from rekindle_plugins.contract import Fence, GroupGeometry, Region, Run
from rekindle_plugins.contract.sharedmem import create_sealed

PAGES = 5
SLOTS = 4

LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[GroupGeometry, ...]]] = {
    "one run": ((PAGES * 96,), (GroupGeometry(4, (Run(0, 0, 96, 96),)),)),
    "strided layers": ((3 * 512,), (GroupGeometry(4, (Run(0, 16, 40, 32, 3, 512),)),)),
    "page by page": ((PAGES * 128,), (GroupGeometry(4, (Run(0, 0, 128, 16, 4, 32),)),)),
    "keys and values apart": ((1024,), (GroupGeometry(4, (Run(0, 0, 32, 32, 2, 512), Run(0, 256, 32, 24, 2, 512))),)),
    "several buffers": (
        (PAGES * 64, PAGES * 48, 4096),
        (GroupGeometry(4, (Run(2, 100, 64, 7), Run(0, 0, 64, 64), Run(1, 0, 48, 48))),),
    ),
    "groups of different sizes": (
        (PAGES * 256,),
        (
            GroupGeometry(8, (Run(0, 0, 256, 256),)),
            GroupGeometry(2, (Run(0, 0, 256, 64),)),
            GroupGeometry(2, (Run(0, 64, 256, 64, 2, 64),)),
        ),
    ),
}


@dataclass
class Place:
    """All the memory that a copier maps."""

    region: Region
    part: ArenaPart
    buffers: list[int]
    arena: int
    fence: Fence
    memory: HostMemory | None = None

    @staticmethod
    def of(layout: str, base: int = 64, gap: int = 32, seed: int = 1) -> Place:
        """Buffers and arena of random bytes; another rank's part lies in the gap between ours."""
        sizes, groups = LAYOUTS[layout]
        region = Region(0, "shm", PAGES, sizes, groups)
        region.validate()
        part = ArenaPart(base, region.part_bytes + gap, region.part_bytes, SLOTS)
        source = random.Random(seed)
        buffers = [filled(source.randbytes(size)) for size in sizes]
        arena = filled(source.randbytes(base + SLOTS * part.stride))
        return Place(region, part, buffers, arena, Fence.create(PAGES))

    def map(self) -> HostMemory:
        self.memory = HostMemory(self.region, self.buffers, self.arena, self.part, self.fence.fd)
        return self.memory

    def engine_bytes(self) -> list[bytes]:
        return [contents(fd) for fd in self.buffers]

    def arena_bytes(self) -> bytes:
        return contents(self.arena)

    def page(self, page_id: int, group: int) -> bytes:
        """A page's bytes in the order of the slot, from the geometry's definition."""
        buffers = self.engine_bytes()
        parts = []
        for run in self.region.groups[group].runs:
            for segment in range(run.count):
                start = run.base + page_id * run.stride + segment * run.step
                parts.append(buffers[run.buffer][start : start + run.length])
        return b"".join(parts)

    def slot(self, slot: int, group: int) -> bytes:
        start = self.part.base + slot * self.part.stride
        return self.arena_bytes()[start : start + self.region.groups[group].part_bytes]

    def close(self) -> None:
        self.memory = None
        for fd in (*self.buffers, self.arena):
            os.close(fd)
        self.fence.close()


def filled(data: bytes) -> int:
    fd = create_sealed("test", len(data))
    os.pwrite(fd, data, 0)
    return fd


def contents(fd: int) -> bytes:
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
        return bytes(memory)
