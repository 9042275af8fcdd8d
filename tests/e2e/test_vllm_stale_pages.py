"""What must not come back: pages of a cache that was reset, and pages of other weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import until
from driving.arena import stored_pages
from vllm_driving import VllmEngine, VllmPod, tokens_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(240)]

PROMPT = tokens_of(1, 200)


def fill_store(pod: VllmPod, engine: VllmEngine) -> None:
    engine.ask(PROMPT, 40)
    pod.when_stored()
    until("pages in the store", lambda: stored_pages(pod.store_dir))


def test_a_reset_cache_leaves_nothing_in_the_store_and_nothing_for_the_next_engine(pod: VllmPod, llama: Path) -> None:
    engine = pod.engine(llama).start()
    expected = engine.ask(PROMPT, 40).tokens
    pod.when_stored()
    engine.post("/reset_prefix_cache")
    engine.kill()
    pod.sidecar.when_released()
    assert stored_pages(pod.store_dir) == {}, "a reset just before the death was missed"
    engine.start()
    assert engine.ask(PROMPT, 40).cached_tokens == 0
    for commands in (
        ["/reset_prefix_cache"],
        ["/reset_prefix_cache?reset_external=true"],
        ["/sleep?level=1", "/wake_up"],
    ):
        fill_store(pod, engine)
        for command in commands:
            engine.post(command)
        until(f"an empty store after {commands}", lambda: not stored_pages(pod.store_dir), 2.0)
        again = engine.ask(PROMPT, 40)
        assert (again.tokens, again.cached_tokens) == (expected, 0), "an old page was found"
    pod.when_stored()
    engine.kill()
    pod.sidecar.when_released()
    engine.start()
    again = engine.ask(PROMPT, 40)
    assert (again.tokens, again.cached_tokens) == (expected, 0), "pages committed after a reset are this start's alone"
    assert pod.sidecar.recovery().pages_restored == 0


def test_pages_of_other_weights_under_the_same_path_are_not_used(
    pod: VllmPod, models: Callable[..., Path], tmp_path: Path
) -> None:
    path = shutil.copytree(models(), tmp_path / "model")
    engine = pod.engine(path).start()
    before = engine.ask(PROMPT, 40).tokens
    engine.kill()
    shutil.rmtree(path)
    shutil.copytree(models("--seed", "7"), path)
    engine.start()
    answer = engine.ask(PROMPT, 40)
    assert answer.cached_tokens == 0
    assert answer.tokens != before
    assert answer.tokens == engine.ask(PROMPT, 40, cache_salt="reference").tokens
    recovery = pod.sidecar.recovery()
    assert recovery.pages_restored == 0
    assert [mismatch.split(":")[0] for mismatch in recovery.mismatches] == ["model_files"]
