"""Checkpoint and restore through a real copier process, checksums included, against plain memcpy at the same geometry.

The two sides alternate, on shared memory of the same kind, page by page with the same segments. What is shown is the
median of the ratios of neighbouring rounds: absolute speeds of a shared machine say little.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from dataclasses import dataclass
from statistics import median

import numpy as np
from rekindle.copier.memory import ArenaPart
from rekindle.copier.process import CopierProcess
from rekindle.copier.protocol import DoneRow, LoadRow, SaveRow, Status, pack_loads, pack_saves
from rekindle_plugins.contract.fence import Fence
from rekindle_plugins.contract.geometry import GroupGeometry, Region, Run

TOTAL_BYTES = 512 << 20
SEGMENTS = 32
ROUNDS = 7
WINDOW = 2
PACKET_ROWS = 64
PACKET_BYTES = 32 << 20


@dataclass(frozen=True)
class Figure:
    page_bytes: int
    memcpy_gb_s: float
    save_ratio: float
    load_ratio: float


def measure(page_bytes: int, total_bytes: int = TOTAL_BYTES) -> Figure:
    return asyncio.run(_measure(page_bytes, total_bytes))


async def _measure(page_bytes: int, total_bytes: int) -> Figure:
    pages = total_bytes // page_bytes
    length = page_bytes // SEGMENTS
    engine_fd, engine = _shared(total_bytes)
    arena_fd, _ = _shared(total_bytes)
    plain_fd, _ = _shared(total_bytes)
    engine[:] = np.random.default_rng(1).integers(0, 256, total_bytes, np.uint8)
    run = Run(0, 0, length, length, SEGMENTS, length * pages)
    region = Region(0, "shm", pages, (total_bytes,), (GroupGeometry(32, (run,)),))
    fence = Fence.create(pages)
    done: asyncio.Queue[list[DoneRow]] = asyncio.Queue()
    lock_fd = os.memfd_create("lock")
    copier, lifeline = CopierProcess.spawn(
        region,
        (engine_fd,),
        arena_fd,
        ArenaPart(0, page_bytes, page_bytes, pages),
        fence.fd,
        lock_fd,
        0,
        lambda: None,
        done.put_nowait,
        lambda reason: None,
    )
    plain = _plain_copy(engine_fd, plain_fd, pages, length)
    rows = max(1, min(PACKET_ROWS, PACKET_BYTES // page_bytes))
    saves = [SaveRow(i, i, 0, 0) for i in range(pages)]
    checksums: dict[int, bytes] = {}
    save_ratios, load_ratios, speeds = [], [], []
    try:
        for number in range(ROUNDS + 1):
            plain_s = plain()
            save_s = await _through(
                copier, done, [pack_saves(saves[i : i + rows]) for i in range(0, pages, rows)], pages, checksums
            )
            loads = [LoadRow(i, i, 0, 0, checksums[i]) for i in range(pages)]
            load_s = await _through(
                copier, done, [pack_loads(loads[i : i + rows]) for i in range(0, pages, rows)], pages
            )
            if number:  # the first round touches the memory for the first time
                speeds.append(total_bytes / plain_s / 1e9)
                save_ratios.append(plain_s / save_s)
                load_ratios.append(plain_s / load_s)
    finally:
        copier.kill("the benchmark is over")
        await copier.gone.wait()
        lifeline.close()
        fence.close()
        for fd in (engine_fd, arena_fd, plain_fd, lock_fd):
            os.close(fd)
    return Figure(page_bytes, median(speeds), median(save_ratios), median(load_ratios))


async def _through(
    copier: CopierProcess,
    done: asyncio.Queue[list[DoneRow]],
    packets: list[bytes],
    pages: int,
    checksums: dict[int, bytes] | None = None,
) -> float:
    """Seconds to push all packets through the copier with a window of two, as the keeper does."""
    start = time.perf_counter()
    sent = answered = taken = 0
    sizes = [(len(packet) - 4) // (24 if checksums is not None else 40) for packet in packets]
    while answered < pages:
        while sent < len(packets) and sent - taken < WINDOW and copier.send(packets[sent]):
            sent += 1
        for row in await done.get():
            assert row.status is Status.OK
            answered += 1
            if checksums is not None:
                checksums[row.slot] = row.checksum
        while taken < sent and answered >= sum(sizes[: taken + 1]):
            taken += 1
    return time.perf_counter() - start


def _plain_copy(source_fd: int, target_fd: int, pages: int, length: int):  # type: ignore[no-untyped-def]
    total = pages * length * SEGMENTS
    source = np.ndarray(
        (pages, SEGMENTS, length), np.uint8, mmap.mmap(source_fd, total), 0, (length, length * pages, 1)
    )
    target = np.ndarray((pages, SEGMENTS, length), np.uint8, mmap.mmap(target_fd, total))

    def copy() -> float:
        start = time.perf_counter()
        for page in range(pages):
            np.copyto(target[page], source[page])
        return time.perf_counter() - start

    return copy


def _shared(size: int):  # type: ignore[no-untyped-def]
    fd = os.memfd_create("bench")
    os.ftruncate(fd, size)
    return fd, np.frombuffer(mmap.mmap(fd, size), np.uint8)
