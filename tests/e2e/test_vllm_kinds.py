"""Other kinds of caches and configurations: hybrid groups, LoRA adapters, a second connector beside ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vllm_driving import BLOCK, REKINDLE, Session, VllmPod, complete_tokens, make_model, tokens_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def test_a_model_with_sliding_windows_and_full_attention_gets_both_groups_back(
    pod: VllmPod, models: Callable[..., Path]
) -> None:
    engine = pod.engine(models("--kind", "gemma")).start()
    sessions = [Session(tokens_of(seed, 300 + 50 * seed), 500) for seed in range(3)]
    expected = engine.references(sessions)
    for session in sessions:
        session.go_on(engine)
    for session in sessions:
        assert session.stream is not None
        session.stream.when(40)
    engine.kill()
    for session in sessions:
        session.cut()
    engine.start()
    recovery = pod.sidecar.recovery()
    assert recovery.pages_rejected == {}
    assert recovery.pages_unsaved == 0
    lengths = [len(session.prompt) + len(session.tokens) for session in sessions]
    for session in sessions:
        session.go_on(engine)
    assert [session.finish() for session in sessions] == expected
    assert [session.cached_tokens for session in sessions] == list(map(complete_tokens, lengths))


def test_a_model_with_sliding_windows_alone_gets_its_pages_back_and_loads_others(
    pod: VllmPod, models: Callable[..., Path]
) -> None:
    engine = pod.engine(models("--kind", "mistral"), num_gpu_blocks_override=48, max_model_len=1024).start()
    sessions = [Session(tokens_of(seed, 500), 100) for seed in range(4)]
    expected = [engine.ask(s.prompt, s.max_tokens, cache_salt="reference").tokens for s in sessions]
    for _ in range(2):
        assert [engine.ask(s.prompt, s.max_tokens).tokens for s in sessions] == expected
    engine.kill()
    engine.start()
    assert pod.sidecar.recovery().pages_rejected == {}
    assert pod.sidecar.recovery().pages_restored > 0
    assert [engine.ask(s.prompt, s.max_tokens).tokens for s in sessions] == expected
    assert engine.metric("external_prefix_cache_hits_total") > 0
    assert "rekindle is off" not in engine.output()


def test_pages_of_a_lora_adapter_come_back_for_the_same_weights_only(
    pod: VllmPod, llama: Path, launcher: Any, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    make_model(launcher.python, adapter, "--kind", "adapter", "--base", str(llama), "--seed", "1")
    engine = pod.engine(llama, enable_lora=True, max_lora_rank=8, lora_modules=[f"a={adapter}"]).start()
    prompt = tokens_of(5, 200)
    expected = engine.ask(prompt, 40, model="a", cache_salt="reference").tokens
    assert engine.ask(prompt, 40).tokens != expected, "the adapter was to change the answer"
    assert engine.ask(prompt, 40, model="a").tokens == expected
    engine.kill()

    engine.start()
    again = engine.ask(prompt, 40, model="a")
    assert (again.tokens, again.cached_tokens) == (expected, complete_tokens(len(prompt)))
    assert engine.metric("external_prefix_cache_hits_total") == complete_tokens(len(prompt)), "loaded at its demand"

    # The files change under the engine, which goes on with the weights that it has.
    shutil.rmtree(adapter)
    make_model(launcher.python, adapter, "--kind", "adapter", "--base", str(llama), "--seed", "2")
    late = tokens_of(6, 200)
    before = engine.ask(late, 40, model="a").tokens
    engine.kill()
    engine.start()
    for question, old in ((prompt, expected), (late, before)):
        changed = engine.ask(question, 40, model="a")
        assert changed.cached_tokens == 0, "pages of the old adapter were used"
        assert changed.tokens == engine.ask(question, 40, model="a", cache_salt="reference").tokens
        assert changed.tokens != old


@pytest.mark.parametrize("first", ["rekindle", "other"])
def test_another_connector_beside_ours_changes_neither_tokens_nor_pages(
    pod: VllmPod, llama: Path, tmp_path: Path, first: str
) -> None:
    other = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(tmp_path)},
    }
    both = [REKINDLE, other] if first == "rekindle" else [other, REKINDLE]
    multi = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"connectors": both},
    }
    engine = pod.engine(llama, kv_transfer_config=multi).start()
    session = Session(tokens_of(6, 5 * BLOCK + 3), 600)
    expected = engine.references([session])[0]
    session.go_on(engine)
    assert session.stream is not None
    session.stream.when(20)
    engine.kill()
    session.cut()
    engine.start()
    length = len(session.prompt) + len(session.tokens)
    assert session.go_on(engine).finish() == expected
    assert session.cached_tokens == complete_tokens(length)
    assert pod.sidecar.recovery().pages_rejected == {}
