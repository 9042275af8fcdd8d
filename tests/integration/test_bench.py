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


PROXY = """
import sys; from pathlib import Path; import proxy_bench
size = proxy_bench.Size(streams=2, tokens=4, first_tokens=3, rounds=1)
for row in proxy_bench.rows(proxy_bench.measure(Path(sys.argv[1]), size)): print(*row, sep=";")
"""


def test_the_proxy_benchmark_measures_through_it_and_past_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROXY, str(tmp_path)],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(";") for line in done.stdout.splitlines()]
    assert [goal for _, _, goal in rows] == ["≤ 1", "–", "≤ 5", "–", "–"]
    assert all(isinstance(float(number), float) for _, figure, _ in rows for number in figure.split(", "))
    assert "2 streams" in rows[2][0]


def test_the_benchmark_names_what_it_needs() -> None:
    argv = [sys.executable, "bench.py", "--help"]
    done = subprocess.run(argv, cwd=BENCHMARKS, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--only" in done.stdout
