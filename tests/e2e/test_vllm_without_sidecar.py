"""The sidecar is away, stopped, or of no use here: the engine serves as it would without one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from driving import until
from vllm_driving import VllmPod, complete_tokens, tokens_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

FIRST, SECOND, THIRD = (tokens_of(seed, 150) for seed in range(3))


def test_an_absent_stopped_or_late_sidecar_costs_a_moment_and_no_answer(pod: VllmPod, llama: Path) -> None:
    run_dir = pod.sidecar.run_dir
    pod.sidecar.terminate()
    (run_dir / "attach.sock").write_text("no socket")
    engine = pod.engine(llama).start()
    expected = [engine.ask(prompt, 40).tokens for prompt in (FIRST, SECOND, THIRD)]

    # It comes late: what the engine holds is announced and stored.
    pod.sidecar.start()
    pod.sidecar.engine()
    live = 3 * (complete_tokens(150 + 40) // 32)
    until("the live pages to be stored", lambda: pod.sidecar.store().pages == live)
    engine.kill()
    pod.sidecar.when_released()

    # It accepts and never answers: the start waits for it, but not long.
    pod.sidecar.freeze()
    engine.start()
    answer = engine.ask(FIRST, 40)
    assert (answer.tokens, answer.cached_tokens) == (expected[0], 0)
    pod.sidecar.thaw()
    pod.sidecar.engine()
    answer = until("a lazy load", lambda: (a := engine.ask(SECOND, 40)).cached_tokens and a)
    assert (answer.tokens, answer.cached_tokens) == (expected[1], complete_tokens(150))

    # It stops while the engine runs: a load is given up after its time, with proof that nobody writes any more.
    pod.sidecar.freeze()
    began = time.monotonic()
    assert engine.ask(THIRD, 40).tokens == expected[2]
    assert time.monotonic() - began < 10
    pod.sidecar.thaw()
    assert [engine.ask(prompt, 40).tokens for prompt in (FIRST, SECOND, THIRD)] == expected
    assert "rekindle is off" not in engine.output()


def test_an_engine_whose_memory_cannot_be_shared_says_so_and_serves(pod: VllmPod, llama: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give the engine a small /dev/shm of its own")
    engine = pod.engine(llama, num_gpu_blocks_override=4096)  # 512 MiB
    engine.shm_bytes = 450 << 20
    engine.start()
    expected = engine.ask(FIRST, 40, cache_salt="reference").tokens
    assert engine.ask(FIRST, 40).tokens == expected
    assert engine.output().count("rekindle is off for this engine start: this engine is not protected: /dev/shm") == 1
    assert "Traceback" not in engine.output()
