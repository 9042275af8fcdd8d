"""What the stream proxy costs, on the nano engine: alternately through it and past it, on the same engine.

first token   one stream at a time, a prompt of one page whose KV is cached: the time from connecting to the first token
CPU           50 streams at once: CPU seconds of the proxy's process ÷ those of the engine's, meanwhile

The nano engine computes a token in far less time than any engine that is worth protecting, and both share the machine
with the 50 clients; so the second figure is an upper bound that says more of the nano engine than of the proxy. The
proxy's CPU time per token is the figure to carry over.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from rekindle.demo.engines import Engine, free_port, nano_kind
from rekindle.demo.sidecar import SidecarProcess
from rekindle.demo.stream import complete


@dataclass(frozen=True)
class Size:
    """How much is measured: `first_tokens` pairs one after the other; `rounds` pairs of `streams` of `tokens`."""

    streams: int = 50
    tokens: int = 40
    first_tokens: int = 200
    rounds: int = 3


@dataclass
class ProxyCost:
    """Each pair: through the proxy, and past it."""

    size: Size = Size()
    first_token_s: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    cpu_ratio: list[float] = field(default_factory=list)
    proxy_cpu_us_per_token: list[float] = field(default_factory=list)
    engine_cpu_us_per_token: list[float] = field(default_factory=list)
    tokens_per_s: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


def measure(home: Path, size: Size = Size()) -> ProxyCost:
    """Takes one to three minutes on two cores."""
    cost = ProxyCost(size)
    tokens = size.streams * size.tokens
    with _proxied_engine(home, size.streams) as (engine, port, proxy_pid):
        ports = (port, engine.port)
        prompt = list(range(32, 48))
        for target in ports * 2:
            complete(target, prompt, 4)
        for _ in range(size.first_tokens):
            for target, times in zip(ports, cost.first_token_s, strict=True):
                times.append(complete(target, prompt, 1).first_token_s or 0.0)
        for _ in range(size.rounds):
            for target, rates in zip(ports, cost.tokens_per_s, strict=True):
                before = cpu_s(proxy_pid), cpu_s(engine.pid)
                seconds = _many(target, size)
                proxy_s, engine_s = cpu_s(proxy_pid) - before[0], cpu_s(engine.pid) - before[1]
                rates.append(tokens / seconds)
                if target == port:
                    # Of very small rounds the clock says nothing.
                    cost.cpu_ratio.append(proxy_s / max(engine_s, 1 / os.sysconf("SC_CLK_TCK")))
                    cost.proxy_cpu_us_per_token.append(proxy_s / tokens * 1e6)
                    cost.engine_cpu_us_per_token.append(engine_s / tokens * 1e6)
    return cost


@contextmanager
def _proxied_engine(home: Path, streams: int = 50) -> Iterator[tuple[Engine, int, int]]:
    kind = nano_kind()
    # All streams in one batch, and room for them.
    kind = replace(kind, command=lambda port, ours: [*nano_kind().command(port, ours), "--max-running", str(streams)])
    engine = Engine(kind, home / "engine.log", port=free_port())
    port = free_port()
    sidecar = SidecarProcess(home, flags=("--proxy", f"127.0.0.1:{port}=http://127.0.0.1:{engine.port}"))
    try:
        sidecar.start()
        engine.start(sidecar.run_dir)
        engine.wait_up()
        yield engine, port, _proxy_pid(sidecar.pid)
    finally:
        engine.kill()
        sidecar.stop()


def _many(port: int, size: Size) -> float:
    """Seconds for all streams to be answered. The clients are another process: their CPU time is nobody's here."""
    began = time.monotonic()
    subprocess.run([sys.executable, __file__, str(port), str(size.streams), str(size.tokens)], check=True)
    return time.monotonic() - began


def _be_clients(port: int, streams: int, tokens: int) -> None:
    threads = [
        threading.Thread(target=complete, args=(port, [*range(32, 48), 48 + index % 64, 32 + index % 64], tokens))
        for index in range(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _proxy_pid(sidecar_pid: int) -> int:
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # others come and go meanwhile
            is_proxy = entry.name.isdigit() and b"rekindle.cli.proxy" in (entry / "cmdline").read_bytes()
            if is_proxy and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == sidecar_pid:
                return int(entry.name)
    raise LookupError(f"sidecar {sidecar_pid} has no proxy")


def cpu_s(pid: int) -> float:
    """User and system time of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows(cost: ProxyCost) -> Iterator[tuple[str, str, str]]:
    through, past = (median(times) * 1e3 for times in cost.first_token_s)
    added = median(one - other for one, other in zip(*cost.first_token_s, strict=True)) * 1e3
    yield "proxy: first token through it − past it, median of pairs, ms (nano engine)", f"{added:.2f}", "≤ 1"
    yield "  through, past, ms", f"{through:.2f}, {past:.2f}", "–"
    share = f"{median(cost.cpu_ratio) * 100:.1f}"
    yield f"proxy: its CPU time ÷ the engine's, {cost.size.streams} streams, %", share, "≤ 5"
    per_token = median(cost.proxy_cpu_us_per_token), median(cost.engine_cpu_us_per_token)
    yield "  CPU µs per token: proxy, nano engine", f"{per_token[0]:.0f}, {per_token[1]:.0f}", "–"
    rates = [median(rate) for rate in cost.tokens_per_s]
    yield "  tokens/s through, past", f"{rates[0]:.0f}, {rates[1]:.0f}", "–"


if __name__ == "__main__":
    _be_clients(*map(int, sys.argv[1:]))
