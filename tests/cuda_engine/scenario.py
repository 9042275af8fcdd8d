"""What a GPU engine's life and death must look like: run on a real GPU by tests/gpu, and on the stand-in elsewhere."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nano_engine.engine import Engine, EngineConfig
from nano_engine.request import Request

from cuda_engine.small_pod import SmallPod, until

SESSIONS, PROMPT_TOKENS, ANSWER_TOKENS, SEEN_TOKENS = 4, 300, 120, 60


def expected(prompt: list[int]) -> list[int]:
    """The answer of an engine that was never killed, and has its cache in ordinary memory."""
    engine = Engine(EngineConfig())
    engine.start()
    request = Request("expected", list(prompt), ANSWER_TOKENS)
    engine.submit(request)
    while engine.has_requests:
        engine.step()
    return request.tokens[len(prompt) :]


def kill_in_mid_decode(memory: str, sharing: str, free_bytes: Callable[[], int]) -> dict[str, Any]:
    """Sessions decode at once; the copier is stopped, then the engine killed: the last pages can only be salvaged.

    Asserts that all memory is let go of and that a fresh engine goes on with the same tokens, out of restored pages.
    Returns the recovery report and `released_s`, from SIGKILL to free memory.
    """
    source = random.Random(7)
    prompts = [[source.randrange(256) for _ in range(PROMPT_TOKENS)] for _ in range(SESSIONS)]
    before = free_bytes()
    with SmallPod(memory, sharing) as pod:
        pod.start_engine()
        until("pages to be checkpointed", lambda: pod.ask(prompts[0], 1) and _checkpointed(pod))
        _decode_until_seen(pod, prompts)
        (copier,) = pod.copiers()
        os.kill(copier, signal.SIGSTOP)
        until("the copier to stop", lambda: _state(copier) == "T")
        late = [source.randrange(256) for _ in range(64)]
        pod.ask(late, 4)
        assert pod.status()["engines"][0]["note"] == ""
        killed = time.monotonic()
        pod.kill_engine()
        until("the death to be noticed", lambda: not any(e["state"] == "running" for e in pod.status()["engines"]))
        os.kill(copier, signal.SIGCONT)
        until("the memory to be free", lambda: free_bytes() >= before - (8 << 20))
        released_s = time.monotonic() - killed
        report = until("the report", lambda: pod.status()["recovery"])
        assert report["pages_salvaged"] >= 4, report
        assert report["pages_unsaved"] == 0, report
        pod.start_engine()
        again = pod.ask(late, 4)
        assert again.cached_tokens >= 48, "the salvaged pages were not restored"
        for prompt in prompts:
            completion = pod.ask(prompt, ANSWER_TOKENS)
            assert completion.cached_tokens >= PROMPT_TOKENS // 16 * 16
            assert completion.token_ids == expected(prompt)
        return {**report, "released_s": released_s}


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _checkpointed(pod: SmallPod) -> int:
    return sum(engine["checkpointed"] for engine in pod.status()["engines"])


def _decode_until_seen(pod: SmallPod, prompts: list[list[int]]) -> None:
    def read(prompt: list[int]) -> None:
        with pod.stream(prompt, ANSWER_TOKENS) as stream:
            for count, _ in enumerate(stream, 1):
                if count == SEEN_TOKENS:
                    return

    readers = [threading.Thread(target=read, args=(prompt,)) for prompt in prompts]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
