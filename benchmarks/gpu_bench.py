"""Everything about GPUs that only a GPU can tell, as one table: `make bench-gpu` writes it under benchmarks/results/.

    copies      checkpoint and restore through `CudaMemory`, checksums included, against pinned copies of this machine
    slow-down   a matmul loop and an attention loop while all of its memory is checkpointed again and again: by the
                copy engines, and by a gather kernel in another process
    death       SIGKILL of the memory's owner while a copier has it mapped: are its pages intact, and how long is it
                from the copier's end until the memory is free

This process is the engine (torch); copiers are children of it that take orders on stdin. Needs what tests/gpu needs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("tests", "examples", "plugins", "sidecar")]

from cuda_stub.memory import Device  # noqa: E402
from rekindle.copier.memory import ArenaPart  # noqa: E402
from rekindle.copier.protocol import LoadRow, SaveRow, Status  # noqa: E402
from rekindle_plugins.client.cuda import export_buffers  # noqa: E402
from rekindle_plugins.contract.fence import Fence  # noqa: E402
from rekindle_plugins.contract.geometry import GroupGeometry, Region, Run  # noqa: E402
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM  # noqa: E402

TOTAL_BYTES = 1 << 30
PACKET_ROWS = 64
ROUNDS = 5
LOOP_S = 2.0
DEATH_BYTES = 8 << 30


@dataclass(frozen=True)
class Shape:
    """A page: `count` segments of `length` bytes, in as many layers."""

    name: str
    length: int
    count: int

    @property
    def page_bytes(self) -> int:
        return self.length * self.count


SHAPES = [
    Shape("Llama-8B, 16 tokens, K and V apart", 32 << 10, 64),
    Shape("Llama-70B at TP8, 16 tokens", 4 << 10, 160),
    Shape("MLA (576 x bf16), 64 tokens", 72 << 10, 61),
    *(
        Shape(f"2 MiB in segments of {size >> 10} KiB", size, (2 << 20) // size)
        for size in (4096, 16384, 65536, 1 << 18)
    ),
    Shape("2 MiB in one", 2 << 20, 1),
]


# -- a copier under orders -----------------------------------------------------------------------------------------


def child(spec: dict[str, Any]) -> None:
    """Orders are JSON lines on stdin, answers on stdout."""
    from rekindle.copier.cuda import CudaMemory

    region, part = Region.from_json(spec["region"]), ArenaPart(**spec["part"])
    memory = CudaMemory(region, spec["fds"], spec["arena"], part, spec["fence"])
    checksums: dict[int, bytes] = {}

    def save() -> int:
        good = 0
        for start in range(0, part.slot_count, PACKET_ROWS):
            slots = range(start, min(start + PACKET_ROWS, part.slot_count))
            for done in memory.save_rows([SaveRow(slot, slot, 0, 0) for slot in slots]):
                good += done.status is Status.OK
                checksums[done.slot] = done.checksum
        return good

    def load() -> int:
        good = 0
        for start in range(0, part.slot_count, PACKET_ROWS):
            slots = range(start, min(start + PACKET_ROWS, part.slot_count))
            rows = [LoadRow(slot, slot, 0, 0, checksums[slot]) for slot in slots]
            good += sum(done.status is Status.OK for done in memory.load_rows(rows))
        return good

    gather: Callable[[], object] | None = None
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        begun = time.perf_counter()
        if order["do"] == "loop":
            if order["how"] == "gather" and gather is None:
                gather = gathering(memory._copies[0][0].address, region)
            work = save if order["how"] == "copy" else gather
            assert work is not None
            turns = 0
            while time.perf_counter() - begun < order["seconds"]:
                work()
                turns += 1
            answer = {"bytes": turns * part.slot_count * part.length}
        else:
            before = dict(checksums)
            answer = {"good": save() if order["do"] == "save" else load(), "same": before == checksums}
        print(json.dumps({**answer, "seconds": time.perf_counter() - begun}), flush=True)


def gathering(address: int, region: Region) -> Callable[[], object]:
    """What a copier with a kernel of its own would do: gather pages into one buffer, and copy that out."""
    import torch
    from cuda_engine.cache import _DeviceArray

    run = region.groups[0].runs[0]
    whole = torch.as_tensor(_DeviceArray(address, region.sizes[0]), device="cuda")
    pages = whole.view(run.count, region.page_count, run.length)
    host = torch.empty((run.count, PACKET_ROWS, run.length), dtype=torch.uint8, pin_memory=True)

    def work() -> None:
        for start in range(0, region.page_count - PACKET_ROWS + 1, PACKET_ROWS):
            index = torch.arange(start, start + PACKET_ROWS, device="cuda")
            host.copy_(pages.index_select(1, index), non_blocking=True)
        torch.cuda.synchronize()

    return work


class Copier:
    """A child that has a region mapped, with its own arena and fence."""

    def __init__(self, region: Region, fds: tuple[int, ...]) -> None:
        part = ArenaPart(0, region.part_bytes, region.part_bytes, region.page_count)
        self._arena = os.memfd_create("bench-arena")
        os.posix_fallocate(self._arena, 0, part.stride * part.slot_count)
        self._fence = Fence.create(region.page_count)
        spec = {
            "region": region.to_json(),
            "part": part.__dict__,
            "fds": list(fds),
            "arena": self._arena,
            "fence": self._fence.fd,
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[*fds, self._arena, self._fence.fd],
            text=True,
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begin(self, do: str, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        return json.loads(self._read())

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        self.begin(do, **fields)
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._arena)
        self._fence.close()


@contextlib.contextmanager
def copier_of(region: Region, fds: tuple[int, ...]) -> Iterator[Copier]:
    copier = Copier(region, fds)
    try:
        yield copier
    finally:
        copier.end()


def region_of(shape: Shape, address: int, total: int) -> tuple[Region, tuple[int, ...]]:
    pages = total // shape.page_bytes
    exported = export_buffers([(address, total)])
    run = Run(0, 0, shape.length, shape.length, shape.count, pages * shape.length if shape.count > 1 else 0)
    region = Region(0, exported.kind, pages, (total,), (GroupGeometry(16, (run,)),))
    return replace(region, devices=exported.devices), exported.fds


# -- copies --------------------------------------------------------------------------------------------------------


def pinned_speed(to_device: bool) -> float:
    """GB/s of one large copy between pinned memory and the GPU."""
    import torch

    host = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    source, target = (host, device) if to_device else (device, host)
    speeds = []
    for _ in range(ROUNDS + 2):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        speeds.append((256 << 20) / (time.perf_counter() - begun) / 1e9)
    return median(speeds[2:])


def copies(device: Device) -> list[str]:
    lines = [
        "| page | segment | save GB/s | of pinned | load GB/s | of pinned |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    address = device.alloc(TOTAL_BYTES)
    for shape in SHAPES:
        region, fds = region_of(shape, address, TOTAL_BYTES)
        out, back = pinned_speed(False), pinned_speed(True)
        with copier_of(region, fds) as copier:
            speeds: dict[str, list[float]] = {"save": [], "load": []}
            for turn in range(ROUNDS + 1):
                for do, found in speeds.items():
                    answer = copier.ask(do)
                    assert answer["good"] == region.page_count
                    if turn:  # the first one page-locks the arena
                        found.append(region.page_count * shape.page_bytes / answer["seconds"] / 1e9)
        save, load = median(speeds["save"]), median(speeds["load"])
        figures = f"{save:.1f} | {save / out:.2f} | {load:.1f} | {load / back:.2f}"
        lines.append(f"| {shape.name} | {shape.length >> 10} KiB | {figures} |")
        print(lines[-1], flush=True)
    return [f"Pinned copies: {out:.1f} GB/s from the GPU, {back:.1f} GB/s to it.", "", *lines]


# -- slow-down -----------------------------------------------------------------------------------------------------


def loops() -> dict[str, Callable[[], object]]:
    import torch

    a, b = (torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    query = torch.randn(32, 32, 1, 128, device="cuda", dtype=torch.bfloat16)
    keys, values = (torch.randn(32, 32, 2048, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return {
        "matmul": lambda: a @ b,
        "attention": lambda: torch.nn.functional.scaled_dot_product_attention(query, keys, values),
    }


def rate(work: Callable[[], object]) -> float:
    """Turns a second over LOOP_S, with the GPU never idle."""
    import torch

    torch.cuda.synchronize()
    begun, turns = time.perf_counter(), 0
    while time.perf_counter() - begun < LOOP_S:
        for _ in range(20):
            work()
        torch.cuda.synchronize()
        turns += 20
    return turns / (time.perf_counter() - begun)


def slow_down(device: Device) -> list[str]:
    lines = ["| loop | checkpointing by | speed kept | checkpointed GB/s |", "| --- | --- | --- | --- |"]
    region, fds = region_of(SHAPES[0], device.alloc(TOTAL_BYTES), TOTAL_BYTES)
    with copier_of(region, fds) as copier:
        for how in ("copy", "gather"):
            copier.ask("loop", how=how, seconds=0.5)
            for name, work in loops().items():
                rate(work)
                kept, speeds = [], []
                for _ in range(ROUNDS):
                    alone = rate(work)
                    copier.begin("loop", how=how, seconds=LOOP_S * 1.5)
                    kept.append(rate(work) / alone)
                    answer = copier.answer()
                    speeds.append(answer["bytes"] / answer["seconds"] / 1e9)
                engine = "copy engine" if how == "copy" else "gather kernel"
                lines.append(f"| {name} | {engine} | {median(kept):.3f} | {median(speeds):.1f} |")
                print(lines[-1], flush=True)
    return lines


# -- death ---------------------------------------------------------------------------------------------------------


def owner(channel_fd: int, sharing: str, size: int) -> None:
    """An engine that has memory, hands it over, and waits to be killed."""
    device = Device()
    channel = socket.socket(fileno=channel_fd)
    address = device.alloc_vmm(size) if sharing == CUDA_VMM else device.alloc(size)
    region, fds = region_of(SHAPES[-1], address, size)
    for page in range(region.page_count):
        device.fill(address + page * region.part_bytes, page % 251 + 1, region.part_bytes)
    device.synchronize()
    socket.send_fds(channel, [json.dumps(region.to_json()).encode()], fds)
    channel.recv(1)


def death(device: Device, sharing: str) -> str:
    free = device.free_bytes()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    engine = subprocess.Popen(
        [sys.executable, __file__, "--owner", str(theirs.fileno()), sharing, str(DEATH_BYTES)],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    data, fds, _, _ = socket.recv_fds(ours, 1 << 17, 250)
    region = Region.from_json(json.loads(data))
    slots = min(region.page_count, TOTAL_BYTES // region.part_bytes)
    copier = Copier(replace(region, page_count=slots), tuple(fds))
    for fd in fds:
        os.close(fd)
    assert copier.ask("save")["good"] == slots
    engine.kill()
    engine.wait()
    held = free - device.free_bytes()
    after = copier.ask("save")
    intact = "yes" if after["good"] == slots and after["same"] else "NO"
    begun = time.perf_counter()
    copier.process.kill()
    while device.free_bytes() < free - DEATH_BYTES // 8:
        if time.perf_counter() - begun > 60:
            return f"| {sharing} | {held / 1e9:.1f} GB | {intact} | not within 60 s |"
    released = (time.perf_counter() - begun) * 1000
    copier.end()
    return f"| {sharing} | {held / 1e9:.1f} GB | {intact} | {released:.0f} ms |"


# -- the table -----------------------------------------------------------------------------------------------------


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--only", choices=["copies", "slow-down", "death"])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_bench: torch sees no CUDA GPU")
    torch.cuda.init()
    device = Device()
    name = torch.cuda.get_device_name(0)
    driver = Path("/proc/driver/nvidia/version")
    parts: dict[str, Callable[[], list[str]]] = {
        "copies": lambda: copies(device),
        "slow-down": lambda: slow_down(device),
        "death": lambda: [
            "| shared as | held by the copier after SIGKILL | pages intact | free after the copier's end |",
            "| --- | --- | --- | --- |",
            *(death(device, sharing) for sharing in (CUDA_IPC, CUDA_VMM)),
        ],
    }
    now = datetime.now(timezone.utc)
    text = [f"# GPU: {name}", "", f"{now:%Y-%m-%d %H:%M} UTC, torch {torch.__version__}, {os.cpu_count()} CPUs.", ""]
    text += ["```", driver.read_text().strip() if driver.exists() else "driver unknown", "```", ""]
    for title, work in parts.items():
        if options.only in (None, title):
            text += [f"## {title}", "", *work(), ""]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"gpu-{now:%Y-%m-%d}-{'-'.join(name.split())}.md"
    path.write_text("\n".join(text))
    print(f"\n{path.read_text()}\nwritten to {path}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    elif sys.argv[1:2] == ["--owner"]:
        owner(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main()
