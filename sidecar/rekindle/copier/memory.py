"""The mappings of a copier: one engine region and its part of the arena, and the moves between them.

Host memory: buffers are shared-memory descriptors. GPU memory has its own class (`copier.cuda`) with the same
`save_rows` and `load_rows`; what both have is `Mapped`, and the loop above them does not know which it has.

    region, group g, run r      ndarray (pages, count, length) over the engine's buffer, strides (stride, step, 1)
    arena, rank's part of slot  the runs one after the other, each (count, length), contiguous
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash
from rekindle_plugins.contract.fence import HEADER_BYTES as FENCE_HEADER_BYTES
from rekindle_plugins.contract.geometry import Region

from rekindle.copier.protocol import NO_CHECKSUM, DoneRow, LoadRow, SaveRow, Status

Bytes = npt.NDArray[np.uint8]
SPLIT_BYTES = 8 << 20


class PageMemory(Protocol):
    """What the copier's loop needs of a memory. Rows are answered in their order, each once."""

    def save_rows(self, rows: Sequence[SaveRow]) -> list[DoneRow]:
        """Copies pages into slots. OK only where the fence stood at the row's epoch after the last byte was read."""

    def load_rows(self, rows: Sequence[LoadRow]) -> list[DoneRow]:
        """Verifies slots and copies them into engine pages. Every write is over when this returns."""

    def part_bytes(self, group: int) -> int:
        """Bytes of one page of a group on this rank. The group may be any number."""


@dataclass(frozen=True)
class ArenaPart:
    """Where one rank's parts lie in the arena file: slot i at `base + i · stride`, `length` bytes of it at most."""

    base: int
    stride: int
    length: int
    slot_count: int


class Mapped:
    """What is mapped for any kind of engine memory: the fence, and this rank's part of the arena.

    Raises OSError or ValueError when a mapping cannot be made.
    """

    def __init__(self, region: Region, arena_fd: int, part: ArenaPart, fence_fd: int) -> None:
        self.page_count = region.page_count
        self.group_count = len(region.groups)
        self._part = part
        self._arena = mmap.mmap(arena_fd, part.base + (part.slot_count - 1) * part.stride + part.length)
        fence_bytes = FENCE_HEADER_BYTES + 8 * region.page_count
        fence = mmap.mmap(fence_fd, fence_bytes, prot=mmap.PROT_READ)
        self._fence: npt.NDArray[np.uint64] = np.frombuffer(fence, np.uint64, region.page_count, FENCE_HEADER_BYTES)
        self._parts: list[Bytes] = [
            np.ndarray((part.slot_count, group.part_bytes), np.uint8, self._arena, part.base, (part.stride, 1))
            for group in region.groups
        ]

    def part_bytes(self, group: int) -> int:
        return int(self._parts[group].shape[1]) if group < self.group_count else 0

    def _in_range(self, slot: int, page_id: int, group: int) -> bool:
        return slot < self._part.slot_count and page_id < self.page_count and group < self.group_count


class HostMemory(Mapped):
    """Engine memory in shared memory. Raises OSError or ValueError when a mapping cannot be made.

    Much work is split with a second thread: copy and checksum of a page run at half of what two cores can move.
    """

    def __init__(self, region: Region, fds: list[int], arena_fd: int, part: ArenaPart, fence_fd: int) -> None:
        super().__init__(region, arena_fd, part, fence_fd)
        buffers = [mmap.mmap(fd, size) for fd, size in zip(fds, region.sizes, strict=True)]
        self._helper = ThreadPoolExecutor(1, "copier-helper")
        self._engine: list[list[Bytes]] = []
        self._slots: list[list[Bytes]] = []
        for group in region.groups:
            offset, engine, slots = 0, [], []
            for run in group.runs:
                shape = (region.page_count, run.count, run.length)
                strides = (run.stride, run.step or run.length, 1)
                engine.append(np.ndarray(shape, np.uint8, buffers[run.buffer], run.base, strides))
                shape = (part.slot_count, run.count, run.length)
                strides = (part.stride, run.length, 1)
                slots.append(np.ndarray(shape, np.uint8, self._arena, part.base + offset, strides))
                offset += run.part_bytes
            self._engine.append(engine)
            self._slots.append(slots)

    def save_rows(self, rows: Sequence[SaveRow]) -> list[DoneRow]:
        if not self._is_much(len(rows)):
            return [self.save(row) for row in rows]
        half = len(rows) // 2
        other = self._helper.submit(lambda: [self.save(row) for row in rows[half:]])
        return [self.save(row) for row in rows[:half]] + other.result()

    def load_rows(self, rows: Sequence[LoadRow]) -> list[DoneRow]:
        if not self._is_much(len(rows)):
            return [self.load(row) for row in rows]
        half = len(rows) // 2
        other = self._helper.submit(lambda: [self.load(row) for row in rows[half:]])
        return [self.load(row) for row in rows[:half]] + other.result()

    def _is_much(self, count: int) -> bool:
        return count > 1 and count * self.part_bytes(0) >= SPLIT_BYTES

    def save(self, row: SaveRow) -> DoneRow:
        """Copies a page into its slot. OK only if the fence stood at `epoch` after the last byte was read.

        The order is the protocol: read the epoch, copy, read it again. Loads are not reordered with later loads on
        x86-64; on a weaker machine the checksum, computed in between, reads all bytes of the copy before the epoch.
        """
        if not self._in_range(row.slot, row.page_id, row.group):
            return DoneRow(row.slot, row.page_id, Status.OUT_OF_RANGE, NO_CHECKSUM)
        if self._fence[row.page_id] != row.epoch:
            return DoneRow(row.slot, row.page_id, Status.FENCE_MOVED, NO_CHECKSUM)
        for source, target in zip(self._engine[row.group], self._slots[row.group], strict=True):
            np.copyto(target[row.slot], source[row.page_id])
        checksum = xxhash.xxh3_128_digest(self._parts[row.group][row.slot])
        if self._fence[row.page_id] != row.epoch:
            return DoneRow(row.slot, row.page_id, Status.FENCE_MOVED, NO_CHECKSUM)
        return DoneRow(row.slot, row.page_id, Status.OK, checksum)

    def load(self, row: LoadRow) -> DoneRow:
        """Verifies a slot and copies it into an engine page that the shim has reserved under `epoch`.

        A page whose epoch is another one has been given up by the shim: it is not touched.
        """
        if not self._in_range(row.slot, row.page_id, row.group):
            return DoneRow(row.slot, row.page_id, Status.OUT_OF_RANGE, NO_CHECKSUM)
        if xxhash.xxh3_128_digest(self._parts[row.group][row.slot]) != row.checksum:
            return DoneRow(row.slot, row.page_id, Status.CHECKSUM, NO_CHECKSUM)
        if self._fence[row.page_id] != row.epoch:
            return DoneRow(row.slot, row.page_id, Status.FENCE_MOVED, NO_CHECKSUM)
        for target, source in zip(self._engine[row.group], self._slots[row.group], strict=True):
            np.copyto(target[row.page_id], source[row.slot])
        return DoneRow(row.slot, row.page_id, Status.OK, NO_CHECKSUM)
