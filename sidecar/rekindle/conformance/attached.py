"""An engine as the probe has it: its journal, its fence and its memory, all from what its halves said hello with."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from rekindle_plugins.contract.errors import GeometryError
from rekindle_plugins.contract.fence import Fence
from rekindle_plugins.contract.geometry import Region
from rekindle_plugins.contract.journal import JournalReader, Record
from rekindle_plugins.contract.sharing import SHM
from rekindle_plugins.contract.wire import Channel, Message

from rekindle.conformance.child.memory import DIGEST_BYTES

DRAIN_RECORDS = 1 << 16
SCRIBBLE = 0xA5

PageKey = tuple[int, bytes]
"""(group, key)"""


class StoredPage(NamedTuple):
    parent: bytes
    tokens: tuple[int, ...]
    data: bytes


@dataclass
class Attached:
    """One engine of one rank in ordinary memory."""

    leader: Channel | None = None
    region: Region | None = None
    wake_fd: int = -1
    _journal: JournalReader | None = None
    _fence: Fence | None = None
    _generation: int = 0
    _buffers: list[mmap.mmap] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return self.leader is not None and self.region is not None

    @property
    def is_void(self) -> bool:
        """The cache was reset: the journal's records up to now belong to nothing that is stored."""
        assert self._journal is not None
        return self._journal.generation != self._generation

    def take_leader(self, channel: Channel, message: Message) -> None:
        """Raises ProtocolError for what is no leader's hello."""
        journal_fd, fence_fd, wake_fd = message.fds
        self._journal = JournalReader(journal_fd, message.fields["page_count"], message.fields["group_tokens"])
        self._fence = Fence.open(os.dup(fence_fd), message.fields["page_count"])
        self._generation = message.fields.get("generation", 0)
        self.wake_fd = os.dup(wake_fd)
        self.leader = channel

    def take_rank(self, _: Channel, message: Message) -> None:
        """Raises GeometryError for memory that the probe cannot map."""
        region = Region.from_json(message.fields.get("region"))
        if region.kind != SHM:
            raise GeometryError(
                "attach", f"memory of kind {region.kind}", "the conformance kit maps only shared memory"
            )
        self._buffers = [mmap.mmap(fd, size) for fd, size in zip(message.fds, region.sizes, strict=True)]
        self.region = region

    def drain(self, problems: list[str]) -> list[Record]:
        assert self._journal is not None
        drained = self._journal.drain(DRAIN_RECORDS)
        problems += [str(error) for error in drained.errors]
        return drained.records

    def take_reset(self, message: Message) -> None:
        """The records from now on count again."""
        self._generation = message.fields.get("generation", 0)

    def epoch(self, page_id: int) -> int:
        assert self._fence is not None
        return self._fence.epoch(page_id)

    def places(self, page_id: int, group: int) -> Iterator[tuple[mmap.mmap, int, int]]:
        """(buffer, offset, bytes) of each segment of a page."""
        assert self.region is not None
        for run in self.region.groups[group].runs:
            for j in range(run.count):
                yield self._buffers[run.buffer], run.base + page_id * run.stride + j * run.step, run.length

    def write(self, page_id: int, group: int, data: bytes) -> None:
        start = 0
        for buffer, offset, length in self.places(page_id, group):
            buffer[offset : offset + length] = data[start : start + length]
            start += length

    def scribble(self, page_id: int, group: int) -> None:
        """What no engine would compute."""
        for buffer, offset, length in self.places(page_id, group):
            buffer[offset : offset + length] = bytes([SCRIBBLE]) * length

    def is_scribbled(self, page_id: int, group: int) -> bool:
        return all(buffer[o : o + n] == bytes([SCRIBBLE]) * n for buffer, o, n in self.places(page_id, group))

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
        if self._fence is not None:
            self._fence.close()
        if self.wake_fd >= 0:
            os.close(self.wake_fd)
        for buffer in self._buffers:
            buffer.close()
        self._buffers = []


@dataclass
class Copy:
    """One committed page on its way out, copied as a copier does it: segment by segment, the epoch read behind it."""

    engine: Attached
    record: Record
    data: bytes = b""
    is_good: bool = False
    """The page's epoch was the committed one after the last byte had been read."""

    def begin(self) -> None:
        """The first half."""
        places = list(self.engine.places(self.record.page_id, self.record.group))
        total = sum(length for _, _, length in places)
        self.data = self._read()[: total // 2]

    def finish(self) -> None:
        """The rest, as the memory is by now."""
        self.data += self._read()[len(self.data) :]
        self.is_good = self.engine.epoch(self.record.page_id) == self.record.epoch

    @property
    def digest(self) -> str:
        return hashlib.blake2b(self.data, digest_size=DIGEST_BYTES).hexdigest()

    def _read(self) -> bytes:
        return b"".join(
            buffer[offset : offset + length]
            for buffer, offset, length in self.engine.places(self.record.page_id, self.record.group)
        )
