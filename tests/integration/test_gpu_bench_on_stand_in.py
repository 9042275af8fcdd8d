"""The GPU benchmark's own parts over the stand-in: its figures mean nothing there, but it is known to run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cuda_stub
import pytest
from cuda_stub import Stub

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
sys.path.insert(0, "benchmarks")
import gpu_bench
from cuda_stub.memory import Device
gpu_bench.TOTAL_BYTES, gpu_bench.DEATH_BYTES, gpu_bench.ROUNDS = 8 << 20, 16 << 20, 1
gpu_bench.pinned_speed = lambda to_device: 1.0
device = Device()
print("\\n".join(gpu_bench.copies(device)))
for sharing in (gpu_bench.CUDA_IPC, gpu_bench.CUDA_VMM):
    print(gpu_bench.death(device, sharing))
"""


@pytest.fixture
def stub() -> Iterator[Stub]:
    if cuda_stub.missing():
        pytest.skip(cuda_stub.missing())
    pytest.importorskip("cuda.bindings", reason="no cuda-bindings")
    stub = Stub()
    stub.set(largest_pitch=1 << 30)
    yield stub
    stub.close()


def test_the_benchmarks_parts_run_and_pages_outlive_their_owner_there(stub: Stub) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | stub.environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = result.stdout.splitlines()
    assert sum("Llama-70B" in line for line in lines) == 2, result.stdout
    for sharing in ("cuda_ipc", "cuda_vmm"):
        (row,) = [line for line in lines if line.startswith(f"| {sharing}")]
        assert "| yes |" in row
        assert row.endswith(" ms |"), "its memory was not let go of"
    assert stub.mappers() == []
