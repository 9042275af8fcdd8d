"""Tensor parallel: a page lies on two ranks, and comes back to both or to none."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from vllm_driving import Session, VllmPod, complete_tokens, tokens_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def test_two_ranks_get_their_pages_back_after_a_kill_of_all_and_of_one_worker(pod: VllmPod, llama: Path) -> None:
    engine = pod.engine(llama, tensor_parallel_size=2)
    engine.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
    engine.start()
    sessions = [Session(tokens_of(seed, 100 + 40 * seed), 600) for seed in range(3)]
    expected = engine.references(sessions)
    assert pod.sidecar.engine().world_size == 2
    pod.sidecar.ready_copiers(2)
    for number, whom in enumerate(("everything", "one worker"), 1):
        for session in sessions:
            session.go_on(engine)
        for session in sessions:
            assert session.stream is not None
            session.stream.when(20)
        if whom == "everything":
            engine.kill()
        else:
            workers = engine.workers()
            assert len(workers) == 2
            os.kill(workers[1], signal.SIGKILL)
            pod.sidecar.when_released()
            engine.kill()
        for session in sessions:
            session.cut()
        assert pod.sidecar.when_released().last_recovery is not None
        engine.start()
        recovery = pod.sidecar.recovery()
        assert (recovery.number, recovery.pages_unsaved, recovery.pages_rejected) == (number, 0, {})
        lengths = [len(session.prompt) + len(session.tokens) for session in sessions]
    for session in sessions:
        session.go_on(engine)
    assert [session.finish() for session in sessions] == expected
    assert [session.cached_tokens for session in sessions] == list(map(complete_tokens, lengths))
