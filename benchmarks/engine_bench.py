"""A real vLLM on the CPU: first tokens after a restart, throughput with and without, the shim's cost, idling."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
from rekindle.admin.client import AdminClient
from rekindle.demo.engines import Engine, EngineKind
from rekindle.demo.sidecar import SidecarProcess
from rekindle.demo.stream import complete
from rekindle.lifecycle.status import KeeperStatus

PROMPTS = 6
WARM_ROUNDS = 3
THROUGHPUT_ROUNDS = 8
STREAMS = 8
STREAM_PROMPT = 96
STREAM_TOKENS = 96
IDLE_S = 10.0


@dataclass
class Restart:
    cold_s: list[float] = field(default_factory=list)
    warm_s: list[float] = field(default_factory=list)
    after_s: list[float] = field(default_factory=list)
    again_s: list[float] = field(default_factory=list)
    without_s: list[float] = field(default_factory=list)
    recomputed: int = 0
    status: KeeperStatus | None = None

    def ratio(self) -> float:
        """Per prompt: the first request after the restart ÷ the median warm hit before; the median of those."""
        return median(after / warm for after, warm in zip(self.after_s, self.warm_s, strict=True))

    def ratio_again(self) -> float:
        """The same against warm hits in the same, fresh engine, right after: the machine has had no time to change."""
        return median(after / again for after, again in zip(self.after_s, self.again_s, strict=True))


def random_prompt(kind: EngineKind, seed: int, count: int) -> list[int]:
    source = random.Random(seed)
    return [source.choice(kind.vocabulary) for _ in range(count)]


def first_token(engine: Engine, prompt: list[int]) -> tuple[float, int]:
    """(seconds, prompt tokens computed) of a one-token request."""
    leg = complete(engine.port, prompt, 1)
    return leg.first_token_s or 0.0, len(prompt) - (leg.cached_tokens or 0)


def measure_restart(kind: EngineKind, engine: Engine, sidecar: SidecarProcess) -> Restart:
    """Cold, warm, SIGKILL, and the first request of each prompt after it.

    An unrelated request comes first each time: a fresh engine's very first one is slow whatever it finds. Prompts are
    asked in turn, warm as after the restart, so that no request finds its pages in the processor's caches.
    """
    result = Restart()
    prompts = [random_prompt(kind, seed, kind.prompt_tokens) for seed in range(PROMPTS)]
    unrelated = random_prompt(kind, 999, 64)
    first_token(engine, unrelated)
    result.cold_s = [first_token(engine, prompt)[0] for prompt in prompts]
    result.warm_s = _warm_hits(engine, prompts)
    wait_until_copied(sidecar)
    engine.kill()
    engine.start(sidecar.run_dir)
    engine.wait_up()
    first_token(engine, unrelated[::-1])
    for prompt in prompts:
        seconds, computed = first_token(engine, prompt)
        result.after_s.append(seconds)
        result.recomputed += computed
    result.again_s = _warm_hits(engine, prompts)
    result.status = status_of(sidecar)
    return result


def _warm_hits(engine: Engine, prompts: list[list[int]]) -> list[float]:
    """Seconds, per prompt: the median of some rounds."""
    rounds = [[first_token(engine, prompt)[0] for prompt in prompts] for _ in range(WARM_ROUNDS)]
    return [median(times) for times in zip(*rounds, strict=True)]


def status_of(sidecar: SidecarProcess) -> KeeperStatus:
    with AdminClient(sidecar.run_dir / "admin.sock") as client:
        return client.status()


def wait_until_copied(sidecar: SidecarProcess, deadline_s: float = 20.0) -> None:
    deadline = time.monotonic() + deadline_s
    while any(engine.pages.pending for engine in status_of(sidecar).engines):
        if time.monotonic() > deadline:
            raise TimeoutError("the sidecar does not catch up")
        time.sleep(0.05)


@dataclass
class Throughput:
    ratios: list[float] = field(default_factory=list)
    tokens_per_s: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    cpu_s_per_token: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


def measure_throughput(kind: EngineKind, with_rekindle: Engine, without: Engine) -> Throughput:
    """Both engines are up; rounds alternate between them, with and without first in turn. New prompts every round."""
    result = Throughput()
    for number in range(THROUGHPUT_ROUNDS + 1):
        pair = [(0, with_rekindle), (1, without)]
        speeds = [0.0, 0.0]
        for side, engine in pair if number % 2 else pair[::-1]:
            speed, cpu = _round(kind, engine, number)
            speeds[side] = speed
            if number:
                result.tokens_per_s[side].append(speed)
                result.cpu_s_per_token[side].append(cpu)
        if number:
            result.ratios.append(speeds[0] / speeds[1])
    return result


def _round(kind: EngineKind, engine: Engine, number: int) -> tuple[float, float]:
    """(tokens per second, CPU seconds per token of the engine's processes)."""
    prompts = [random_prompt(kind, 10_000 + number * STREAMS + i, STREAM_PROMPT) for i in range(STREAMS)]
    before, start = _cpu_s(engine), time.perf_counter()
    threads = [threading.Thread(target=complete, args=(engine.port, prompt, STREAM_TOKENS)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tokens = STREAMS * STREAM_TOKENS
    return tokens / (time.perf_counter() - start), (_cpu_s(engine) - before) / tokens


def _cpu_s(engine: Engine) -> float:
    leader = psutil.Process(engine.pid)
    times = [process.cpu_times() for process in [leader, *leader.children(recursive=True)]]
    return sum(t.user + t.system for t in times)


@dataclass(frozen=True)
class Idle:
    cpu_percent: float
    memory_mb: float


def measure_idle(sidecar: SidecarProcess) -> Idle:
    """The sidecar with an attached, idle engine: CPU of one core, and its memory without shared memory (the arena)."""
    keeper = psutil.Process(sidecar.pid)
    processes = [keeper, *keeper.children(recursive=True)]
    before = sum(p.cpu_times().user + p.cpu_times().system for p in processes)
    start = time.monotonic()
    time.sleep(IDLE_S)
    used = sum(p.cpu_times().user + p.cpu_times().system for p in processes) - before
    memory = sum(_private_kb(p.pid) for p in processes)
    return Idle(100 * used / (time.monotonic() - start), memory / 1024)


def _private_kb(pid: int) -> int:
    """Proportional share of anonymous and file memory; shared memory (arena, engine, memfds) is not counted."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0])
    return fields["Pss_Anon"] + fields["Pss_File"]
