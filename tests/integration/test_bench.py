"""The benchmarks run. What they measure depends on the machine and is not asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = "import bandwidth; figure = bandwidth.measure(64 << 10, 4 << 20); print(figure.save_ratio, figure.load_ratio)"


def test_the_bandwidth_benchmark_measures_both_directions_through_a_real_copier() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL], cwd=BENCHMARKS, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(float(ratio) > 0 for ratio in done.stdout.split())


def test_the_benchmark_names_what_it_needs() -> None:
    argv = [sys.executable, "bench.py", "--help"]
    done = subprocess.run(argv, cwd=BENCHMARKS, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--only" in done.stdout
