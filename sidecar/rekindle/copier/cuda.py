"""GPU memory: pages between an engine's allocations, as mapped by this copier, and the pinned arena.

    rows ─▶ batches ─▶ one 2-D copy a run on our stream ─▶ event ─▶ wait for it ─▶ fence ─▶ checksums on the host
                       the next batch is copied meanwhile (two in flight)          (saves)

A copy is asynchronous, so the order is all: a page's fence is read for the second time after the event that follows
its copy has been waited for. When it stands then, no step that may overwrite the page had been dispatched when the last
byte was read. Loads are waited for before they are answered: the engine uses no page that is still being written.

Only copy engines work here, no kernel of ours: width is a segment, height the segments of a run. Distances beyond the
device's largest pitch are copied segment by segment.

Threads: all driver calls are on the copier's main thread; checksums are computed on a few others.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import xxhash
from rekindle_plugins.contract.errors import DeviceError
from rekindle_plugins.contract.geometry import Region, Run

from rekindle.copier.gpu import Gpu
from rekindle.copier.memory import ArenaPart, Mapped
from rekindle.copier.protocol import NO_CHECKSUM, DoneRow, LoadRow, SaveRow, Status

BATCH_BYTES = 8 << 20
BATCHES_IN_FLIGHT = 2
PIN_BYTES = 256 << 20
"""The arena is page-locked in parts of about this size, when they are first needed: all at once may take minutes."""
MEMORY_PAGE_BYTES = 4096
MAX_CHECKSUM_THREADS = 8

AnyRow = TypeVar("AnyRow", SaveRow, LoadRow)


@dataclass(frozen=True)
class _Copy:
    """One run of a group: where it lies on the device, and where in a slot."""

    address: int
    run: Run
    slot_offset: int


class CudaMemory(Mapped):
    """Engine memory on one GPU. Raises OSError, ValueError or DeviceError when it cannot be mapped.

    A DeviceError out of any method leaves the copier useless: rows that it had begun are not answered, and it must end.
    """

    def __init__(self, region: Region, fds: list[int], arena_fd: int, part: ArenaPart, fence_fd: int) -> None:
        super().__init__(region, arena_fd, part, fence_fd)
        if not region.devices:
            raise DeviceError("attach", f"region of rank {region.rank}", "it does not say where on the GPU it lies")
        self._gpu = Gpu(region.devices[0].gpu)
        self._arena_bytes = len(self._arena)
        self._arena_address = int(np.frombuffer(self._arena, np.uint8).ctypes.data)
        self._pinned: set[int] = set()
        self._events = [self._gpu.new_event() for _ in range(BATCHES_IN_FLIGHT)]
        self._copies = self._plan(region, self._import(region, fds))
        self._struct = self._gpu.driver.CUDA_MEMCPY2D()
        self._hashing = ThreadPoolExecutor(min(MAX_CHECKSUM_THREADS, os.cpu_count() or 1), "copier-checksum")
        self._slots_to_pin = max(1, PIN_BYTES // part.stride) if part.stride % MEMORY_PAGE_BYTES == 0 else 0

    def _import(self, region: Region, fds: list[int]) -> list[int]:
        left, opened, addresses = list(fds), dict[str, int](), []
        for device in region.devices:
            count = len(device.pieces) if left else 0
            addresses.append(self._gpu.import_buffer(region.kind, device, left[:count], opened))
            left = left[count:]
        return addresses

    def _plan(self, region: Region, addresses: list[int]) -> list[list[_Copy]]:
        plan = []
        for group in region.groups:
            offset, copies = 0, []
            for run in group.runs:
                copies.append(_Copy(addresses[run.buffer] + run.base, run, offset))
                offset += run.part_bytes
            plan.append(copies)
        return plan

    # -- saves -------------------------------------------------------------------------------------------------

    def save_rows(self, rows: Sequence[SaveRow]) -> list[DoneRow]:
        """Copies pages into slots, batch by batch. OK only where the fence stood after the copy was complete."""
        done: list[DoneRow] = []
        flying: deque[tuple[list[tuple[SaveRow, Status]], Any]] = deque()
        for number, batch in enumerate(self._batches(rows)):
            if len(flying) == BATCHES_IN_FLIGHT:
                done += self._end_saves(*flying.popleft())
            event = self._events[number % BATCHES_IN_FLIGHT]
            flying.append(([(row, self._begin_save(row)) for row in batch], event))
            self._gpu.call("cuEventRecord", event, self._gpu.stream)
        while flying:
            done += self._end_saves(*flying.popleft())
        return done

    def _begin_save(self, row: SaveRow) -> Status:
        status = self._judge(row)
        if status is Status.OK:
            self._copy(row.group, row.page_id, row.slot, to_device=False)
        return status

    def _end_saves(self, batch: list[tuple[SaveRow, Status]], event: Any) -> list[DoneRow]:
        self._gpu.call("cuEventSynchronize", event)
        judged = [(row, self._judge(row) if status is Status.OK else status) for row, status in batch]
        good = [row for row, status in judged if status is Status.OK]
        checksums = iter(self._checksums([(row.group, row.slot) for row in good]))
        return [
            DoneRow(row.slot, row.page_id, status, next(checksums) if status is Status.OK else NO_CHECKSUM)
            for row, status in judged
        ]

    # -- loads -------------------------------------------------------------------------------------------------

    def load_rows(self, rows: Sequence[LoadRow]) -> list[DoneRow]:
        """Verifies slots and copies them into engine pages that the shim has reserved. Complete when this returns.

        A page whose epoch is another one has been given up by the shim: it is not touched.
        """
        done: list[DoneRow] = []
        for batch in self._batches(rows):
            in_range = [row for row in batch if self._in_range(row.slot, row.page_id, row.group)]
            found = dict(zip(in_range, self._checksums([(row.group, row.slot) for row in in_range]), strict=True))
            for row in batch:
                status = Status.CHECKSUM if found.get(row, row.checksum) != row.checksum else self._judge(row)
                if status is Status.OK:
                    self._copy(row.group, row.page_id, row.slot, to_device=True)
                done.append(DoneRow(row.slot, row.page_id, status, NO_CHECKSUM))
        self._gpu.call("cuStreamSynchronize", self._gpu.stream)
        return done

    # -- both --------------------------------------------------------------------------------------------------

    def _batches(self, rows: Sequence[AnyRow]) -> Iterator[list[AnyRow]]:
        """Parts of about BATCH_BYTES, in order, so that copies and checksums overlap."""
        batch: list[AnyRow] = []
        size = 0
        for row in rows:
            batch.append(row)
            size += self.part_bytes(row.group)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _judge(self, row: SaveRow | LoadRow) -> Status:
        if not self._in_range(row.slot, row.page_id, row.group):
            return Status.OUT_OF_RANGE
        return Status.OK if self._fence[row.page_id] == row.epoch else Status.FENCE_MOVED

    def _checksums(self, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """XXH3-128 of slots given as (group, slot), in order. The hash lets go of the interpreter while it computes."""
        views: list[Any] = [self._parts[group][slot] for group, slot in parts]
        if len(views) < 2:
            return [xxhash.xxh3_128_digest(view) for view in views]
        return list(self._hashing.map(xxhash.xxh3_128_digest, views))

    def _copy(self, group: int, page_id: int, slot: int, to_device: bool) -> None:
        """Puts the copies of one page on the stream."""
        self._pin(slot)
        slot_address = self._arena_address + self._part.base + slot * self._part.stride
        for copy in self._copies[group]:
            run = copy.run
            device = copy.address + page_id * run.stride
            host = slot_address + copy.slot_offset
            if run.count > 1 and run.step <= self._gpu.max_pitch:
                self._copy_2d(device, host, run, to_device)
                continue
            for segment in range(run.count):
                self._copy_1d(device + segment * run.step, host + segment * run.length, run.length, to_device)

    def _copy_1d(self, device: int, host: int, length: int, to_device: bool) -> None:
        gpu = self._gpu
        if to_device:
            gpu.call("cuMemcpyHtoDAsync", device, host, length, gpu.stream)
        else:
            gpu.call("cuMemcpyDtoHAsync", host, device, length, gpu.stream)

    def _copy_2d(self, device: int, host: int, run: Run, to_device: bool) -> None:
        memory, types = self._struct, self._gpu.driver.CUmemorytype
        memory.WidthInBytes, memory.Height = run.length, run.count
        if to_device:
            memory.srcMemoryType, memory.srcHost, memory.srcPitch = types.CU_MEMORYTYPE_HOST, host, run.length
            memory.dstMemoryType, memory.dstDevice, memory.dstPitch = types.CU_MEMORYTYPE_DEVICE, device, run.step
        else:
            memory.srcMemoryType, memory.srcDevice, memory.srcPitch = types.CU_MEMORYTYPE_DEVICE, device, run.step
            memory.dstMemoryType, memory.dstHost, memory.dstPitch = types.CU_MEMORYTYPE_HOST, host, run.length
        self._gpu.call("cuMemcpy2DAsync", memory, self._gpu.stream)

    def _pin(self, slot: int) -> None:
        """Page-locks the part of the arena that a slot lies in. No slot lies in two parts.

        Slots that are no whole memory pages would: then all of the arena is one part.
        """
        number = slot // self._slots_to_pin if self._slots_to_pin else 0
        if number in self._pinned:
            return
        begin, end = 0, self._arena_bytes
        if self._slots_to_pin:
            first = self._part.base - self._part.base % MEMORY_PAGE_BYTES
            begin = first + number * self._slots_to_pin * self._part.stride
            end = min(begin + self._slots_to_pin * self._part.stride, self._arena_bytes)
        size = -(-(end - begin) // MEMORY_PAGE_BYTES) * MEMORY_PAGE_BYTES
        self._gpu.pin(self._arena_address + begin, size)
        self._pinned.add(number)
