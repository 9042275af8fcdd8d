"""One run of the demo: conversations stream, the engine is killed in the middle, started again, and they go on.

reference   every prompt once, uninterrupted, under another cache salt (so that nothing of it is found later)
run         N conversations at once; when each has part of its answer: SIGKILL; restart
            with Rekindle: each goes through the stream proxy, knows nothing of it, and just goes on
            without: each notices, and sends what it has once more
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rekindle_plugins.contract.errors import UnavailableError

from rekindle.admin.client import AdminClient
from rekindle.demo.engines import Engine, EngineKind, free_port
from rekindle.demo.sidecar import SidecarProcess
from rekindle.demo.stream import Leg, complete

SEED = 20261122
KILL_AFTER = 0.4
"""Share of every answer that must have been seen before the kill."""
_POLL_S = 0.002


@dataclass
class Conversation:
    """One client: its prompt, and the requests it took to get the whole answer. Through the proxy it takes one."""

    prompt: list[int]
    legs: list[Leg] = field(default_factory=list)

    @property
    def answer(self) -> list[int]:
        return [token for leg in self.legs for token in leg.tokens]

    def next_token_after(self, moment: float) -> float | None:
        return min((at for leg in self.legs for at in leg.token_times if at > moment), default=None)


@dataclass
class RunResult:
    """What one run showed. Times in seconds since the run's begin."""

    with_rekindle: bool
    conversations: list[Conversation]
    begun_at: float
    killed_at: float
    up_at: float
    ended_at: float
    engine_start_s: float
    pages_restored: int = 0
    tokens_restored: int = 0
    salvage_s: float | None = None
    same_tokens: bool = False

    def pauses_s(self) -> list[float]:
        """From the kill to the next token, per conversation."""
        after = [c.next_token_after(self.killed_at) for c in self.conversations]
        return [at - self.killed_at for at in after if at is not None]

    def resume_first_token_s(self) -> list[float]:
        """From the fresh engine's readiness to the next token: what is sent to it is sent then."""
        after = [c.next_token_after(self.up_at) for c in self.conversations]
        return [at - self.up_at for at in after if at is not None]

    def cold_first_token_s(self) -> list[float]:
        return [c.legs[0].first_token_s or 0.0 for c in self.conversations]

    def tokens_recomputed(self) -> int:
        """Prompt tokens that the fresh engine computed again: an answer that went on has the fresh one's usage."""
        last = [c.legs[-1] for c in self.conversations if c.legs]
        return sum(leg.prompt_tokens - (leg.cached_tokens or 0) for leg in last)


def prompts_for(kind: EngineKind, count: int, seed: int = SEED) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.choice(kind.vocabulary) for _ in range(kind.prompt_tokens)] for _ in range(count)]


def run_demo(kind: EngineKind, sessions: int) -> list[RunResult]:
    """Both runs, with Rekindle first. Raises UnavailableError."""
    prompts = prompts_for(kind, sessions)
    with tempfile.TemporaryDirectory(prefix="rekindle-demo-") as folder:
        reference: list[list[int]] = []
        results = []
        for with_rekindle in (True, False):
            home = Path(folder) / ("with" if with_rekindle else "without")
            home.mkdir()
            results.append(_run(kind, prompts, home, with_rekindle, reference))
    for result in results:
        result.same_tokens = [c.answer for c in result.conversations] == reference
    return results


def _run(
    kind: EngineKind, prompts: Sequence[list[int]], home: Path, with_rekindle: bool, reference: list[list[int]]
) -> RunResult:
    engine = Engine(kind, home / "engine.log", port=free_port())
    proxy_port = free_port() if with_rekindle else None
    proxy = f"127.0.0.1:{proxy_port}=http://127.0.0.1:{engine.port}"
    sidecar = SidecarProcess(home, flags=("--proxy", proxy)) if with_rekindle else None
    try:
        if sidecar is not None:
            sidecar.start()
        run_dir = sidecar.run_dir if sidecar is not None else None
        engine.start(run_dir)
        engine.wait_up()
        if not reference:
            answers = (complete(engine.port, p, kind.answer_tokens, salt="reference") for p in prompts)
            reference.extend(leg.tokens for leg in answers)
        result = _kill_in_the_middle(kind, engine, run_dir, prompts, proxy_port)
        if sidecar is not None:
            with AdminClient(sidecar.run_dir / "admin.sock") as client:
                report = client.status().last_recovery
            if report is not None:
                result.pages_restored, result.tokens_restored = report.pages_restored, report.tokens_restored
                result.salvage_s = report.salvage_s
        return result
    finally:
        engine.kill()
        if sidecar is not None:
            sidecar.stop()


def _kill_in_the_middle(
    kind: EngineKind, engine: Engine, run_dir: Path | None, prompts: Sequence[list[int]], proxy_port: int | None
) -> RunResult:
    conversations = [Conversation(list(prompt)) for prompt in prompts]
    is_up = threading.Event()
    is_up.set()
    failures: list[str] = []
    begun_at = time.monotonic()
    threads = [
        threading.Thread(target=_converse, args=(kind, engine, conversation, is_up, failures), daemon=True)
        if proxy_port is None
        else threading.Thread(target=_just_go_on, args=(kind, proxy_port, conversation, failures), daemon=True)
        for conversation in conversations
    ]
    for thread in threads:
        thread.start()
    enough = int(kind.answer_tokens * KILL_AFTER)
    while any(len(c.answer) < enough for c in conversations) and not failures:
        time.sleep(_POLL_S)
    is_up.clear()
    killed_at = time.monotonic()
    engine.kill()
    engine.start(run_dir)
    engine_start_s = engine.wait_up()
    up_at = time.monotonic()
    is_up.set()
    for thread in threads:
        thread.join()
    if failures:
        raise UnavailableError("run", "the demo", failures[0])
    return RunResult(run_dir is not None, conversations, begun_at, killed_at, up_at, time.monotonic(), engine_start_s)


def _just_go_on(kind: EngineKind, proxy_port: int, conversation: Conversation, failures: list[str]) -> None:
    """What a client of the proxy does about its engine's death: nothing."""
    leg = Leg(time.monotonic(), len(conversation.prompt))
    conversation.legs.append(leg)
    try:
        complete(proxy_port, conversation.prompt, kind.answer_tokens, leg=leg)
    except UnavailableError as error:
        failures.append(str(error))


def _converse(
    kind: EngineKind, engine: Engine, conversation: Conversation, is_up: threading.Event, failures: list[str]
) -> None:
    """Until the whole answer is there: when the stream breaks, send prompt and answer so far to the fresh engine."""
    try:
        while len(conversation.answer) < kind.answer_tokens:
            is_up.wait()
            sent = conversation.prompt + conversation.answer
            leg = Leg(time.monotonic(), len(sent))
            missing = kind.answer_tokens - len(conversation.answer)
            conversation.legs.append(leg)
            try:
                complete(engine.port, sent, missing, leg=leg)
            except UnavailableError as error:
                if is_up.is_set() and len(conversation.legs) > 3:
                    failures.append(str(error))
                    return
                if not leg.tokens:
                    conversation.legs.pop()
                    time.sleep(_POLL_S)
    except Exception as error:
        failures.append(repr(error))
