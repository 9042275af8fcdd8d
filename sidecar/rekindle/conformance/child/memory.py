"""The engine's memory as its shim has declared it: a page's bytes through the region's geometry, as a copier sees them.

Runs in the child. Only ordinary shared memory can be read here; pages in a GPU's memory have no digest.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Sequence

from rekindle_plugins.contract.geometry import Region
from rekindle_plugins.contract.sharing import SHM

DIGEST_BYTES = 16


class Memory:
    """One rank's region, mapped through the descriptors that go to the sidecar."""

    def __init__(self, region: Region, fds: Sequence[int]) -> None:
        """Raises OSError or ValueError where a buffer is smaller than it is said to be."""
        self.region = region
        self._buffers: list[memoryview] = []
        if region.kind == SHM:
            for fd, size in zip(fds, region.sizes, strict=True):
                self._buffers.append(memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ)))

    @property
    def is_readable(self) -> bool:
        return bool(self._buffers)

    def segments(self, page_id: int, group: int) -> Iterator[memoryview]:
        for run in self.region.groups[group].runs:
            for j in range(run.count):
                start = run.base + page_id * run.stride + j * run.step
                yield self._buffers[run.buffer][start : start + run.length]

    def digest(self, page_id: int, group: int) -> str:
        """Hexadecimal; "" where the memory cannot be read from here."""
        if not self.is_readable:
            return ""
        state = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for segment in self.segments(page_id, group):
            state.update(segment)
        return state.hexdigest()

    def blank_segments(self, page_id: int, group: int) -> list[int]:
        """Which segments of a page are all zeros: perhaps nothing is ever written there."""
        if not self.is_readable:
            return []
        return [index for index, part in enumerate(self.segments(page_id, group)) if not any(part)]
