"""Staging memory: where pages arrive before the engine hears of them. One rank's side, in the worker's process.

A second, small "engine" as the sidecar sees it: ordinary shared memory with the page layout of the store, into which
the copiers fill. `loads` says why. What has arrived there is put into the engine's blocks by this process, on the
stream of the forward pass that needs it: after whatever an earlier step still writes there, before anything that reads
it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Sequence

from rekindle_plugins.client.cuda_driver import Driver
from rekindle_plugins.contract.errors import DeviceError
from rekindle_plugins.contract.geometry import GroupGeometry, Region, Run
from rekindle_plugins.contract.sharedmem import create_sealed
from rekindle_plugins.contract.sharing import SHM
from rekindle_plugins.tensorrt_llm.geometry import Pool, segments
from rekindle_plugins.tensorrt_llm.messages import Copy

ALIGNMENT = 4096
PIN_BYTES = 64 << 20
"""Staging memory is page-locked in parts of about this size, each when it is first used."""


def staging_pages(pool: Pool, staging_bytes: int) -> int:
    """How many pages fit. The same on all ranks, whose parts of a page are equally long."""
    return min(staging_bytes // _slot_bytes(pool), pool.page_count)


def _slot_bytes(pool: Pool) -> int:
    return -(-pool.part_bytes // ALIGNMENT) * ALIGNMENT


class StagingMemory:
    """One rank's. `fd` goes to the sidecar with `region`; the memory is taken from the machine as it is used."""

    def __init__(self, pool: Pool, rank: int, page_count: int) -> None:
        """Raises OSError when the machine does not give the memory."""
        self._pool = pool
        self._slot_bytes = _slot_bytes(pool)
        self._size = page_count * self._slot_bytes
        self.fd = create_sealed("rekindle-staging", self._size)
        mapping = mmap.mmap(self.fd, self._size)
        self._memory = (ctypes.c_char * self._size).from_buffer(mapping)
        self._address = ctypes.addressof(self._memory)
        run = Run(0, 0, self._slot_bytes, pool.part_bytes)
        group = GroupGeometry(pool.group.page_tokens, (run,))
        self.region = Region(rank, SHM, page_count, (self._size,), (group,), pool.layout)
        self._driver: Driver | None = None
        self._pinned: set[int] = set()

    def put(self, copies: Sequence[Copy], stream: int) -> None:
        """Copies staged pages into the engine's blocks, and waits until that is done.

        Raises DeviceError. Then the blocks hold anything, and the step that counts on them must not run.
        """
        driver = self._driver = self._driver or Driver()
        for copy in copies:
            if not 0 <= copy.block < self._pool.page_count or not 0 <= copy.staging_page < self.region.page_count:
                raise DeviceError("load", f"block {copy.block}", f"there is no such block, or page {copy.staging_page}")
            source = copy.staging_page * self._slot_bytes
            self._pin(driver, source)
            for address, place, length in segments(self._pool, copy.block):
                driver.copy_to_device(address, self._address + source + place, length, stream)
        if copies:
            driver.synchronize(stream)

    def _pin(self, driver: Driver, offset: int) -> None:
        """Best effort: memory that is not page-locked is copied, too, only slower."""
        part_bytes = max(1, PIN_BYTES // self._slot_bytes) * self._slot_bytes
        part = offset // part_bytes
        if part not in self._pinned:
            self._pinned.add(part)
            start = part * part_bytes
            with contextlib.suppress(DeviceError):
                driver.pin(self._address + start, min(part_bytes, self._size - start))

    def close(self) -> None:
        os.close(self.fd)
