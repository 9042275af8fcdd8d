"""Page geometry: where the bytes of a page lie in an engine's memory.

A region is the memory of one engine rank: one or more buffers (shared memory, or GPU memory: `contract.sharing`).
A page of a KV-cache group is described by runs. A run is `count` equally long segments at equal distance:

    page i, segment j  =  buffer[base + i * stride + j * step : … + length]

             stride (page to page)
        ├───────────────────────────┤
        [seg 0]      [seg 0]      …          layer 0        The usual case of one allocation for all layers
            page 0       page 1                             is one run: step is the layer stride.
        [seg 1]      [seg 1]      …          layer 1
        ├ step (segment to segment)

That is enough for K and V apart, for layers in one allocation or many, for MLA (one short segment a layer), and for
hybrid groups that alias the same bytes (each group has its own runs; a page id belongs to one group at a time).
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rekindle_plugins.contract.errors import GeometryError
from rekindle_plugins.contract.sharing import DeviceBuffer, descriptor_count, problem_of

MAX_RUNS_PER_GROUP = 4096
MAX_SEGMENTS = 1 << 16
"""Of a page of every group, all together."""
MAX_GROUPS = 64
MAX_BUFFERS = 200  # SCM_RIGHTS carries at most 253 descriptors
MAX_PAGES = 1 << 24
"""A sidecar keeps 8 bytes for each."""


@dataclass(frozen=True)
class Run:
    """`count` segments of `length` bytes, `step` bytes apart; the next page's are `stride` bytes further on."""

    buffer: int
    base: int
    stride: int
    length: int
    count: int = 1
    step: int = 0

    @property
    def part_bytes(self) -> int:
        return self.count * self.length

    def extent(self, page_count: int) -> int:
        """The first byte behind the last page's last segment."""
        return self.base + (page_count - 1) * self.stride + (self.count - 1) * self.step + self.length


@dataclass(frozen=True)
class GroupGeometry:
    """How the pages of one KV-cache group lie in one rank's region."""

    page_tokens: int
    runs: tuple[Run, ...]

    @property
    def part_bytes(self) -> int:
        """Bytes of one page on this rank."""
        return sum(run.part_bytes for run in self.runs)


@dataclass(frozen=True)
class Region:
    """One rank's memory. `sizes` are the buffers' lengths in bytes; `kind` says how they are shared."""

    rank: int
    kind: str
    page_count: int
    sizes: tuple[int, ...]
    groups: tuple[GroupGeometry, ...]
    layout: str = ""
    """What the bytes within a page mean (dtype, order of dimensions), as far as only the rank knows.

    Part of the identity.
    """
    devices: tuple[DeviceBuffer, ...] = ()
    """Where the buffers lie in GPU memory, one for each; none under `shm`."""

    @property
    def descriptor_count(self) -> int:
        """How many descriptors must come with it."""
        return descriptor_count(self.kind, self.sizes, self.devices)

    @property
    def part_bytes(self) -> int:
        """Bytes a slot must hold for this rank: the largest page of any group."""
        return max(group.part_bytes for group in self.groups)

    def validate(self) -> None:
        """Raises GeometryError when the descriptor contradicts itself or leaves its buffers."""
        subject = f"region of rank {self.rank}"
        if not 1 <= self.page_count <= MAX_PAGES:
            raise _bad(subject, f"page count {self.page_count} is not in 1..{MAX_PAGES}")
        if not 1 <= len(self.groups) <= MAX_GROUPS or not 1 <= len(self.sizes) <= MAX_BUFFERS:
            raise _bad(subject, f"{len(self.groups)} groups in {len(self.sizes)} buffers is out of bounds")
        problem = problem_of(self.kind, self.sizes, self.devices)
        if problem:
            raise _bad(subject, problem)
        for index, group in enumerate(self.groups):
            if group.page_tokens < 1 or not 1 <= len(group.runs) <= MAX_RUNS_PER_GROUP:
                raise _bad(subject, f"group {index} has {len(group.runs)} runs and {group.page_tokens} tokens a page")
            for run in group.runs:
                self._validate_run(subject, index, run)
        if sum(run.count for group in self.groups for run in group.runs) > MAX_SEGMENTS:
            raise _bad(subject, f"its groups have more than {MAX_SEGMENTS} segments a page, all together")
        for index, group in enumerate(self.groups):
            _refuse_overlap(subject, index, group.runs, self.page_count)

    def _validate_run(self, subject: str, group: int, run: Run) -> None:
        if not 0 <= run.buffer < len(self.sizes):
            raise _bad(subject, f"group {group} names buffer {run.buffer} of {len(self.sizes)}")
        if run.length < 1 or run.count < 1 or run.base < 0 or run.stride < 0 or run.step < 0:
            raise _bad(subject, f"group {group} has a run with a negative or empty part: {run}")
        if run.count > 1 and run.step < run.length:
            raise _bad(subject, f"group {group} has segments of {run.length} B only {run.step} B apart")
        if self.page_count > 1 and run.stride < run.length:
            raise _bad(subject, f"group {group} has pages {run.stride} B apart with segments of {run.length} B")
        end = run.extent(self.page_count)
        if end > self.sizes[run.buffer]:
            raise _bad(
                subject, f"group {group} ends at byte {end}, but buffer {run.buffer} has {self.sizes[run.buffer]}"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Region:
        """Builds and validates. Raises GeometryError for anything that is not a region."""
        try:
            region = Region(
                rank=_integer(data["rank"]),
                kind=str(data["kind"]),
                page_count=_integer(data["page_count"]),
                sizes=tuple(_integer(size) for size in data["sizes"]),
                groups=tuple(
                    GroupGeometry(
                        page_tokens=_integer(group["page_tokens"]),
                        runs=tuple(Run(**{k: _integer(v) for k, v in run.items()}) for run in group["runs"]),
                    )
                    for group in data["groups"]
                ),
                layout=str(data.get("layout", ""))[:256],
                devices=tuple(DeviceBuffer.from_json(device) for device in data.get("devices", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _bad("region", f"the descriptor is malformed: {error!r}") from error
        region.validate()
        return region


def coalesce(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Joins runs that continue each other, so that a page takes as few copies as possible.

    Neighbouring segments (the next begins where the last ends) become one longer segment; equally long segments at
    equal distance become one run with a step. The order of bytes in the slot stays that of `runs`.
    """
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        same = last is not None and last.buffer == run.buffer and last.stride == run.stride
        if last is not None and same and last.count == run.count == 1 and run.base == last.base + last.length:
            joined[-1] = Run(run.buffer, last.base, run.stride, last.length + run.length)
        else:
            joined.append(run)
    stepped: list[Run] = []
    for run in joined:
        last = stepped[-1] if stepped else None
        if last is not None and _continues(last, run):
            step = last.step if last.count > 1 else run.base - last.base
            stepped[-1] = Run(run.buffer, last.base, run.stride, run.length, last.count + 1, step)
        else:
            stepped.append(run)
    return tuple(stepped)


def _continues(last: Run, run: Run) -> bool:
    if run.count != 1 or (last.buffer, last.stride, last.length) != (run.buffer, run.stride, run.length):
        return False
    distance = run.base - (last.base + (last.count - 1) * last.step)
    return distance >= run.length and (last.count == 1 or distance == last.step)


def _refuse_overlap(subject: str, group: int, runs: Sequence[Run], page_count: int) -> None:
    """No two segments of a group may share a byte, of one page or of two, or a restore would write one over the other.

    A segment recurs with every page, `stride` bytes further on: a train. Trains that reach into each other must have
    one stride and lie apart within it. `near` has (place in the stride, length) of those that reach the current one.
    """
    trains = sorted(
        (run.buffer, run.base + j * run.step, run.stride, run.length) for run in runs for j in range(run.count)
    )
    near: list[tuple[int, int]] = []
    ends: list[tuple[int, tuple[int, int]]] = []
    last: tuple[int, int] | None = None
    for buffer, start, stride, length in trains:
        if last is not None and buffer != last[0]:
            near, ends = [], []
        while ends and ends[0][0] <= start:
            del near[bisect.bisect_left(near, heapq.heappop(ends)[1])]
        if near and last != (buffer, stride) and page_count > 1:
            raise _bad(subject, f"group {group} has runs of different strides that interleave at byte {start}")
        last = (buffer, stride)
        period = stride if page_count > 1 else start + length
        place = start % period
        at = bisect.bisect(near, (place, length))
        if near:
            before, after = near[at - 1], near[at % len(near)]
            if (place - before[0]) % period < before[1] or (after[0] - place) % period < length:
                raise _bad(subject, f"group {group} has overlapping segments at byte {start} of buffer {buffer}")
        near.insert(at, (place, length))
        heapq.heappush(ends, (start + (page_count - 1) * stride + length, (place, length)))


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer")
    return value


def _bad(subject: str, problem: str) -> GeometryError:
    return GeometryError("attach", subject, problem, "the shim and its engine disagree about the KV cache's layout")
