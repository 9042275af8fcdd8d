"""`make bench`: every figure as a ratio measured in one run, the two sides in alternation. Prints and keeps a table.

    python benchmarks/bench.py [--only bandwidth|engine|proxy|disaggregated] [--model FOLDER]

The parts engine and disaggregated need VLLM_PYTHON, the latter NIXL_PATH, too (the Makefile sets them).
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import bandwidth
import disaggregated_bench
import engine_bench
import proxy_bench
from rekindle.demo.engines import Engine, make_small_model, vllm_kind
from rekindle.demo.sidecar import SidecarProcess

ROOT = Path(__file__).parents[1]
PAGE_BYTES = (64 << 10, 256 << 10, 1 << 20, 4 << 20)
Row = tuple[str, str, str]


def bandwidth_rows() -> Iterator[Row]:
    for page_bytes in PAGE_BYTES:
        figure = bandwidth.measure(page_bytes)
        name = f"pages of {page_bytes >> 10} KiB in {bandwidth.SEGMENTS} segments"
        goal = "≥ 0.9" if page_bytes >= 1 << 20 else "–"
        yield f"checkpoint ÷ memcpy, {name}", f"{figure.save_ratio:.2f}", goal
        yield f"restore ÷ memcpy, {name} (memcpy {figure.memcpy_gb_s:.1f} GB/s)", f"{figure.load_ratio:.2f}", goal


def engine_rows(model: Path | None) -> Iterator[Row]:
    python = os.environ.get("VLLM_PYTHON", "")
    with (
        tempfile.TemporaryDirectory(prefix="rekindle-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="rekindle-bench-", dir="/dev/shm") as store,
    ):
        home = Path(folder)
        model = model or make_small_model(python, home / "model")
        kind = replace(vllm_kind(python, model), prompt_tokens=2048)
        sidecar = SidecarProcess(home, "1GiB", Path(store))
        ours, bare = Engine(kind, home / "with.log"), Engine(kind, home / "without.log")
        try:
            sidecar.start()
            ours.start(sidecar.run_dir)
            ours.wait_up()
            yield from _restart_rows(engine_bench.measure_restart(kind, ours, sidecar))
            idle = engine_bench.measure_idle(sidecar)
            yield "idle sidecar, % of one core", f"{idle.cpu_percent:.2f}", "< 0.5"
            yield "idle sidecar (keeper and copier), MB besides the arena", f"{idle.memory_mb:.0f}", "< 80"
            bare.start(None)
            bare.wait_up()
            before = engine_bench.status_of(sidecar).engines[0]
            throughput = engine_bench.measure_throughput(kind, ours, bare)
            yield from _throughput_rows(throughput)
            after = engine_bench.status_of(sidecar).engines[0]
            steps = after.steps - before.steps
            spent_us = after.shim_us_per_step * after.steps - before.shim_us_per_step * before.steps
            pages = (after.pages.checkpointed - before.pages.checkpointed) / max(1, steps)
            goal = f"≤ {50 + 2 * pages:.0f}"
            yield f"the shim's own time per engine step, µs ({pages:.2f} pages a step)", f"{spent_us / steps:.0f}", goal
        finally:
            ours.kill()
            bare.kill()
            sidecar.stop()


def proxy_rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="rekindle-bench-") as folder:
        yield from proxy_bench.rows(proxy_bench.measure(Path(folder)))


def disaggregated_rows(model: Path | None) -> Iterator[Row]:
    python = os.environ.get("VLLM_PYTHON", "")
    with (
        tempfile.TemporaryDirectory(prefix="rekindle-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="rekindle-bench-", dir="/dev/shm") as stores,
    ):
        home = Path(folder)
        model = model or make_small_model(python, home / "model")
        kills = disaggregated_bench.measure(python, os.environ["NIXL_PATH"], model, home, Path(stores))
        yield from disaggregated_bench.rows(kills)


def _restart_rows(restart: engine_bench.Restart) -> Iterator[Row]:
    yield "first token after a restart ÷ warm hit before it", f"{restart.ratio():.2f}", "≤ 1.05"
    yield "  the same ÷ warm hits right after it, in the fresh engine", f"{restart.ratio_again():.2f}", "–"
    rounds = (restart.cold_s, restart.warm_s, restart.after_s, restart.again_s)
    times = ", ".join(f"{median(values) * 1e3:.0f}" for values in rounds)
    yield "  cold, warm, after the restart, warm again, ms", times, "–"
    yield f"  prompt tokens computed after it, {len(restart.after_s)} prompts of 2,048", str(restart.recomputed), "–"
    report = restart.status.last_recovery if restart.status is not None else None
    if report is not None:
        yield "  pages put back, seconds it took", f"{report.pages_restored}, {report.restore_s:.2f}", "–"
        yield "death noticed → salvage ended, ms", f"{(report.salvage_s or 0) * 1e3:.0f}", "≤ 250"
        yield "death noticed → engine's memory released, ms", f"{(report.release_s or 0) * 1e3:.0f}", "≤ 350"


def _throughput_rows(throughput: engine_bench.Throughput) -> Iterator[Row]:
    ours, bare = (median(values) for values in throughput.tokens_per_s)
    spread = f"{min(throughput.ratios):.2f}–{max(throughput.ratios):.2f}"
    name = f"throughput with ÷ without, median of {len(throughput.ratios)} pairs ({spread})"
    yield name, f"{median(throughput.ratios):.2f}", "≥ 0.99"
    yield "  tokens/s with, without", f"{ours:.0f}, {bare:.0f}", "–"
    cpu = [median(values) * 1e3 for values in throughput.cpu_s_per_token]
    yield "  the engine's CPU ms per token with, without", f"{cpu[0]:.2f}, {cpu[1]:.2f}", "–"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["bandwidth", "engine", "proxy", "disaggregated"])
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an engine that stays behind ruins what is measured next
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    lines = [
        f"Rekindle on {machine}, {datetime.date.today()}",
        "",
        "| measure | figure | goal |",
        "| --- | ---: | ---: |",
    ]
    print(*lines, sep="\n", flush=True)
    parts = []
    if args.only in (None, "bandwidth"):
        parts.append(bandwidth_rows())
    if args.only in (None, "engine"):
        parts.append(engine_rows(args.model))
    if args.only in (None, "proxy"):
        parts.append(proxy_rows())
    if args.only in (None, "disaggregated"):
        parts.append(disaggregated_rows(args.model))
    for rows in parts:
        for name, figure, goal in rows:
            lines.append(f"| {name} | {figure} | {goal} |")
            print(lines[-1], flush=True)
    if args.only is None:
        results = ROOT / "benchmarks" / "results"
        results.mkdir(exist_ok=True)
        (results / f"cpu-{datetime.date.today()}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
