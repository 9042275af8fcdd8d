"""A cache smaller than the sessions need: preempted, evicted, loaded again, cut off, and always the same tokens."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest
from driving import until
from vllm_driving import Session, VllmEngine, VllmPod, tokens_of

pytestmark = [pytest.mark.vllm, pytest.mark.core, pytest.mark.timeout(300)]

BLOCKS = 48
SMALL = {"num_gpu_blocks_override": BLOCKS, "max_model_len": 1024, "max_num_batched_tokens": 128}
"""Long prompts are computed in several steps, and six sessions need twice the pages there are."""


def some_sessions() -> list[Session]:
    return [Session(tokens_of(seed, 260 + 10 * seed), 300) for seed in range(6)]


def ask_all(engine: VllmEngine, sessions: list[Session]) -> list[list[int]]:
    for session in sessions:
        session.go_on(engine)
    return [session.finish() for session in sessions]


def kill_copiers(pod: VllmPod, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        for pid in pod.sidecar.copiers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("scheduling", ["async_scheduling", "no_async_scheduling"])
def test_a_crowded_cache_gives_the_right_tokens_before_and_after_a_kill(
    pod: VllmPod, llama: Path, scheduling: str
) -> None:
    engine = pod.engine(llama, **SMALL, **{scheduling: True}).start()
    sessions = some_sessions()
    expected = [engine.ask(s.prompt, s.max_tokens, cache_salt="reference").tokens for s in sessions]

    # Clients that hang up, some of them while their prompt is being computed or loaded.
    for seen in (0, 1, 5):
        streams = [engine.stream(session.prompt, session.max_tokens) for session in sessions]
        for stream in streams[:3]:
            stream.when(seen)
        for stream in streams:
            stream.hang_up()

    assert ask_all(engine, some_sessions()) == expected
    assert engine.metric("num_preemptions_total") > 0, "the cache was to be too small"
    loaded = engine.metric("external_prefix_cache_hits_total")
    assert [engine.ask(s.prompt, s.max_tokens).tokens for s in sessions] == expected
    assert engine.metric("external_prefix_cache_hits_total") > loaded, "evicted pages were to be loaded"

    for session in sessions:
        session.go_on(engine)
    for session in sessions[:3]:
        assert session.stream is not None
        session.stream.when(30)
    engine.kill()
    for session in sessions:
        session.cut()
    engine.start()
    assert pod.sidecar.recovery().pages_restored > BLOCKS // 2
    assert pod.sidecar.recovery().pages_rejected == {}
    assert ask_all(engine, sessions) == expected
    # How many were still unfinished at the kill is chance. All of them together do not fit into the cache.
    assert [engine.ask(s.prompt, s.max_tokens).tokens for s in sessions] == expected
    assert engine.metric("external_prefix_cache_hits_total") > 0, "what was not restored eagerly was to be loaded"

    # Loads that fail again and again: what does not come is computed.
    crashes = pod.sidecar.status().copier_crashes
    stop = threading.Event()
    killer = threading.Thread(target=kill_copiers, args=(pod, stop))
    killer.start()
    try:
        assert ask_all(engine, some_sessions()) == expected
    finally:
        stop.set()
        killer.join()
    assert pod.sidecar.status().copier_crashes > crashes
    until("new copiers", lambda: pod.sidecar.copiers())
    assert ask_all(engine, some_sessions()) == expected
    assert "rekindle is off" not in engine.output()
