"""A prefill and a decode engine with NIXL between them; the decode engine is killed in the middle of an answer.

with       a sidecar beside each engine; the client asks their proxies, and its stream goes on by itself
without    the client asks the engines; when its stream breaks and the decode engine is up again, it goes through both
           steps again at once, with prompt and partial answer

One pair is up at a time: four engines of vLLM on two cores are in each other's way even when they have nothing to do.
So the pause is told by the engine's own start in the same run. What an engine prefills is by its own metrics. The
prefill engine that survives still has the prompt's pages in its cache, as one without other work has: a busy one would
have to compute the prompt again, too.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine_bench import random_prompt, wait_until_copied
from rekindle.demo.engines import Engine, EngineKind, free_port, vllm_kind
from rekindle.demo.sidecar import SidecarProcess
from rekindle.demo.stream import Leg, complete
from rekindle_plugins.contract.errors import UnavailableError
from rekindle_plugins.vllm.adapter import TRANSFER_CONFIG
from rekindle_plugins.vllm.wiring import beside

PARTS = (0.25, 0.5, 0.75)
PROMPT_TOKENS = 2048
ANSWER_TOKENS = 480
TOKEN_TIMEOUT_S = 120.0
ASK_PREFILL = {"do_remote_decode": True, "do_remote_prefill": False}


@dataclass
class Kill:
    """One kill at `part` of an answer. `prefilled`: tokens that either engine computed again because of it."""

    part: float
    prefilled: int
    pause_s: float
    start_s: float
    """Of the fresh decode engine: from its process's begin to its first healthy answer."""
    is_same: bool
    """Whether every token is that of an uninterrupted run."""


@dataclass
class Kills:
    ours: list[Kill] = field(default_factory=list)
    bare: list[Kill] = field(default_factory=list)


@dataclass
class Side:
    """An engine in one role, with the sidecar beside it if there is one. `port`: what its clients ask."""

    engine: Engine
    sidecar: SidecarProcess | None
    port: int

    def start(self) -> None:
        self.engine.start(None if self.sidecar is None else self.sidecar.run_dir)

    def prefilled(self) -> int:
        """Prompt tokens that this start of the engine computed."""
        url = f"http://127.0.0.1:{self.engine.port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        total, cached = (
            sum(float(value) for value in re.findall(rf"^vllm:{name}\{{.*\}} (\S+)$", text, re.MULTILINE))
            for name in ("prompt_tokens_total", "prompt_tokens_cached_total")
        )
        return int(total - cached)


@dataclass
class Pair:
    prefill: Side
    decode: Side

    def hand_over(self, prompt: Sequence[int]) -> dict[str, Any]:
        """The first step: what the second one's request needs to fetch the prompt's pages."""
        body = {"model": "m", "prompt": list(prompt), "max_tokens": 1, "temperature": 0}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.prefill.port}/v1/completions",
            json.dumps(body | {"kv_transfer_params": ASK_PREFILL}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=TOKEN_TIMEOUT_S) as answer:
            return {"kv_transfer_params": json.load(answer)["kv_transfer_params"]}


def measure(python: str, nixl: str, model: Path, home: Path, stores: Path) -> Kills:
    """`nixl`: a folder with it for `python`. Takes twenty minutes on two cores."""
    kills = Kills()
    for with_rekindle, results in ((False, kills.bare), (True, kills.ours)):
        with _pair(python, nixl, model, home, stores, with_rekindle) as pair:
            for seed, part in enumerate(PARTS):
                prompt = random_prompt(pair.decode.engine.kind, 500 + seed, PROMPT_TOKENS)
                results.append(kill_at(part, pair, prompt))
    return kills


def kill_at(part: float, pair: Pair, prompt: list[int]) -> Kill:
    decode, engine = pair.decode, pair.decode.engine
    expected = complete(engine.port, prompt, ANSWER_TOKENS, salt="reference").tokens
    leg = Leg(time.monotonic(), len(prompt))
    client = threading.Thread(target=_client, args=(decode.port, prompt, leg, pair.hand_over(prompt)))
    client.start()
    _wait_for(leg, int(part * ANSWER_TOKENS))
    before = pair.prefill.prefilled()
    engine.kill()
    decode.start()
    start_s = engine.wait_up()
    if decode.sidecar is not None:
        client.join()
        tokens = leg.tokens
        pause_s = max(later - earlier for earlier, later in pairwise(leg.token_times))
    else:
        client.join()
        seen = [*prompt, *leg.tokens]
        rest = complete(decode.port, seen, ANSWER_TOKENS - len(leg.tokens), fields=pair.hand_over(seen))
        tokens = leg.tokens + rest.tokens
        pause_s = rest.token_times[0] - leg.token_times[-1]
    prefilled = decode.prefilled() + pair.prefill.prefilled() - before
    if decode.sidecar is not None:
        wait_until_copied(decode.sidecar)
    return Kill(part, prefilled, pause_s, start_s, tokens == expected)


def _client(port: int, prompt: list[int], leg: Leg, fields: dict[str, Any]) -> None:
    with suppress(UnavailableError):  # its stream breaks where nobody keeps it
        complete(port, prompt, ANSWER_TOKENS, leg=leg, fields=fields)


def _wait_for(leg: Leg, count: int) -> None:
    deadline = time.monotonic() + TOKEN_TIMEOUT_S
    while len(leg.tokens) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(leg.tokens)} tokens of {count} came in {TOKEN_TIMEOUT_S:.0f} s")
        time.sleep(0.002)


@contextmanager
def _pair(python: str, nixl: str, model: Path, home: Path, stores: Path, with_rekindle: bool) -> Iterator[Pair]:
    name = "with" if with_rekindle else "without"
    sides: list[Side] = []
    try:
        for core, role in enumerate(("producer", "consumer")):
            kind = _kind(python, nixl, model, f"kv_{role}", core)
            engine = Engine(kind, home / f"{name}-{role}.log", port=free_port())
            sides.append(Side(engine, None, engine.port))
            if with_rekindle:
                sides[-1].port = free_port()
                proxy = f"127.0.0.1:{sides[-1].port}=http://127.0.0.1:{engine.port}"
                folder = home / role
                folder.mkdir()
                flags = ("--proxy", proxy, "--proxy-wait", "10m")
                sides[-1].sidecar = SidecarProcess(folder, "512MiB", stores / role, flags)
                sides[-1].sidecar.start()
            sides[-1].start()
        for side in sides:
            side.engine.wait_up()
        yield Pair(*sides)
    finally:
        for side in sides:
            side.engine.kill()
            if side.sidecar is not None:
                side.sidecar.stop()


def _kind(python: str, nixl: str, model: Path, role: str, core: int) -> EngineKind:
    """A vLLM with a NixlConnector in this role, and ours beside it where there is a sidecar."""
    kind = vllm_kind(python, model)
    transfer = {"kv_connector": "NixlConnector", "kv_role": role, "kv_buffer_device": "cpu"}
    alone = transfer | {"kv_load_failure_policy": "recompute"}

    def command(port: int, with_rekindle: bool) -> list[str]:
        config = beside(transfer, TRANSFER_CONFIG) if with_rekindle else alone
        return [*kind.command(port, False), "--kv-transfer-config", json.dumps(config)]

    environment = kind.environment | {
        "PYTHONPATH": os.pathsep.join([kind.environment["PYTHONPATH"], nixl]),
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port()),
    }
    return replace(kind, command=command, environment=environment)


def rows(kills: Kills) -> Iterator[tuple[str, str, str]]:
    for ours, bare in zip(kills.ours, kills.bare, strict=True):
        name = f"decode engine killed at {ours.part:.0%} of an answer, with (without)"
        yield f"{name}: tokens prefilled again anywhere", f"{ours.prefilled} ({bare.prefilled})", "–"
        ratios = (kill.pause_s / kill.start_s for kill in (ours, bare))
        yield "  pause ÷ engine start", "{:.2f} ({:.2f})".format(*ratios), "–"
        yield "  pause, s", f"{ours.pause_s:.1f} ({bare.pause_s:.1f})", "–"
    differing = [sum(not kill.is_same for kill in results) for results in (kills.ours, kills.bare)]
    yield "  answers that differ from an uninterrupted one", "{} ({})".format(*differing), "0"
