"""The TensorRT-LLM shim in a stand-in for its executor, over the stand-in for the CUDA driver: real processes, kills.

Nothing here ran on TensorRT-LLM itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import cuda_stub
import pytest
from cuda_stub import Stub
from driving import Pod, Reference, until
from driving.arena import StoredPage, arena_paths, stored_pages
from driving.reference import computed_pages, prompt
from rekindle_plugins.tensorrt_llm.keys import PLAIN_ROOT, chain
from trt_engine.driving import TrtEngine, make_model

MANAGERS = ["v1", "v2"]
LAYERS = 2
ALIVE = ("attached", "restoring", "running")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    if cuda_stub.missing():
        pytest.skip(cuda_stub.missing())
    pytest.importorskip("cuda.bindings", reason="no cuda-bindings")
    stub = Stub()
    for name, value in stub.environ.items():
        monkeypatch.setenv(name, value)
    yield stub
    stub.close()


@pytest.fixture
def make_engine(stub: Stub, make_pod: Callable[..., Pod], tmp_path: Path) -> Callable[..., TrtEngine]:
    """An engine of one rank that has started, beside a sidecar whose copiers are at work."""

    def make(variables: dict[str, str] | None = None, **flags: object) -> TrtEngine:
        pod = make_pod(salvage_budget="5s", store_size="32MiB")
        pod.sidecar.start()
        wait = {"WAIT_MS": "10000"}  # a busy machine must not make a restore a matter of luck
        engine = TrtEngine(pod, make_model(tmp_path / "model"), wait | (variables or {}), **flags)
        engine.start()
        until("a copier to map the engine's memory", lambda: len(stub.mappers()) == 2, 60.0)
        return engine

    return make


def complete_pages(tokens: list[int]) -> list[bytes]:
    """The keys of what is complete when the last token has been sampled."""
    return chain(PLAIN_ROOT, tokens, 16, (len(tokens) - 1) // 16)


def when_stored(engine: TrtEngine, tokens: list[int]) -> dict[bytes, StoredPage]:
    keys = set(complete_pages(tokens))
    until("all complete pages to be stored", lambda: keys <= set(stored_pages(engine.pod.store_dir)), 30.0)
    return stored_pages(engine.pod.store_dir)


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("manager", MANAGERS)
def test_the_calls_are_counted_as_upstreams_own_test_counts_them(
    make_engine: Callable[..., TrtEngine], reference: Reference, manager: str, overlap: int
) -> None:
    engine = make_engine(manager=manager, overlap=overlap)
    question = prompt(10)
    assert engine.ask(question, 8).tokens == reference.tokens(question, 8)
    until("the last iteration to end", lambda: engine.counts()["calls"]["get_finished"] == 8 + overlap)
    found = engine.counts()
    assert found["calls"] == {
        "get_num_new_matched_tokens": 1,
        "update_state_after_alloc": 1,
        "build_connector_meta": 8,
        "start_load_kv": 8,
        "wait_for_layer_load": 8 * LAYERS,
        "save_kv_layer": 8 * LAYERS,
        "wait_for_save": 8,
        "request_finished": 1,
        "get_finished": 8 + overlap,
    }
    assert found["outputs"] == [[1, 0]] + [[0, 1]] * 7


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("manager", MANAGERS)
def test_a_killed_engine_goes_on_in_a_fresh_one_with_the_same_tokens(
    make_engine: Callable[..., TrtEngine], reference: Reference, manager: str, overlap: int
) -> None:
    engine = make_engine(manager=manager, overlap=overlap)
    question = prompt(500)
    whole = reference.tokens(question, 600)
    with engine.generating(question, 600, seen=40):
        got = engine.seen(question)
        engine.kill()
    assert got == whole[: len(got)]
    engine.restart()
    rest = engine.ask([*question, *got], 32)
    assert [*got, *rest.tokens] == whole[: len(got) + 32]
    # A step is told of the tokens before it: of what was complete, at most the last page is computed again.
    assert rest.loaded >= (computed_pages(len(question), len(got)) - 1) * 16
    assert rest.found == 0
    again = engine.ask([*question, *got], 32)
    assert again.tokens == rest.tokens
    assert again.found >= rest.loaded, "what was put in place was published by the engine"
    assert again.loaded == 0


def test_every_complete_page_is_in_the_store_when_its_request_has_ended(make_engine: Callable[..., TrtEngine]) -> None:
    engine = make_engine()
    question = prompt(300, 3)
    tokens = [*question, *engine.ask(question, 40).tokens]
    assert set(when_stored(engine, tokens)) == set(complete_pages(tokens))


def test_the_interface_is_found_in_its_old_place_too(
    make_engine: Callable[..., TrtEngine], reference: Reference
) -> None:
    engine = make_engine(place="old")
    question = prompt(100, 4)
    answer = engine.ask(question)
    when_stored(engine, [*question, *answer.tokens])
    engine.restart()
    again = engine.ask(question)
    assert (again.tokens, again.loaded) == (reference.tokens(question), 96)


@pytest.mark.parametrize("manager", MANAGERS)
def test_blocks_that_are_taken_behind_our_back_are_never_stored_with_what_they_held(
    make_engine: Callable[..., TrtEngine], reference: Reference, stub: Stub, manager: str
) -> None:
    """Padding a CUDA graph takes free blocks, and writes to them. The engine's cache still knew what they held, and a
    sidecar that comes with an empty store is told of every page that is live."""
    engine = make_engine(manager=manager, pages=24, dummies=6)
    sidecar, source = engine.pod.sidecar, random.Random(11)
    questions = [[source.randrange(256) for _ in range(source.randrange(40, 120))] for _ in range(6)]
    for question in questions:
        assert engine.ask(question, 24).tokens == reference.tokens(question, 24)
    sidecar.kill()
    for arena in arena_paths(engine.pod.store_dir):
        arena.unlink()
    sidecar.start()
    sidecar.when("both halves to attach", lambda s: [e.state in ALIVE for e in s.engines] == [True, True], 60.0)
    until("the copiers to map the engine's memory", lambda: len(stub.mappers()) == 2, 60.0)
    questions.append(prompt(70, 12))
    when_stored(engine, [*questions[-1], *engine.ask(questions[-1], 24).tokens])
    sidecar.when_idle()
    engine.restart()
    answers = [engine.ask(question, 24) for question in questions]
    assert [answer.tokens for answer in answers] == [reference.tokens(question, 24) for question in questions]
    assert answers[-1].loaded == 64


@pytest.mark.parametrize("manager", MANAGERS)
def test_two_ranks_restore_what_both_have(
    stub: Stub, make_pod: Callable[..., Pod], reference: Reference, tmp_path: Path, manager: str
) -> None:
    pod = make_pod(salvage_budget="5s", store_size="32MiB")
    pod.sidecar.start()
    engine = TrtEngine(pod, make_model(tmp_path / "model"), {"WAIT_MS": "10000"}, ranks=2, manager=manager)
    question = prompt(200, 8)
    for loaded in (0, 192):
        engine.start()
        engine.ask(prompt(5), 1)  # the second rank hears with the first step under which name it attaches
        pod.sidecar.when("both halves to attach", lambda s: [e.state in ALIVE for e in s.engines] == [True, True], 60.0)
        until("the copiers to map the engine's memory", lambda: len(stub.mappers()) == 3, 60.0)
        answer = engine.ask(question)
        assert (answer.tokens, answer.loaded) == (reference.tokens(question), loaded)
        when_stored(engine, [*question, *answer.tokens])
        engine.kill()
        pod.sidecar.when_released()


def test_a_page_that_was_damaged_in_the_store_is_not_claimed(
    make_engine: Callable[..., TrtEngine], reference: Reference
) -> None:
    engine = make_engine()
    question = prompt(200, 5)
    pages = when_stored(engine, [*question, *engine.ask(question).tokens])
    engine.kill()
    engine.pod.sidecar.when_released()
    page = pages[complete_pages(question)[5]]
    with page.path.open("r+b") as arena:
        arena.seek(page.offset + 100)
        arena.write(bytes([page.data[100] ^ 1]))
    engine.start()
    answer = engine.ask(question)
    assert (answer.tokens, answer.loaded) == (reference.tokens(question), 5 * 16)


def test_a_sidecar_that_is_away_or_hangs_costs_a_bounded_wait_and_no_token(
    make_engine: Callable[..., TrtEngine], reference: Reference
) -> None:
    engine = make_engine({"WAIT_MS": "50"})
    question = prompt(200, 6)
    when_stored(engine, [*question, *engine.ask(question).tokens])
    engine.restart()
    engine.pod.sidecar.freeze()
    assert engine.ask(question).tokens == reference.tokens(question)
    engine.pod.sidecar.kill()
    assert engine.ask(prompt(100, 7)).tokens == reference.tokens(prompt(100, 7))
    engine.kill()
    engine.start()
    assert engine.ask(question)[:1] == (reference.tokens(question),)


def test_a_salt_keeps_pages_apart_and_a_lora_request_is_left_alone(make_engine: Callable[..., TrtEngine]) -> None:
    engine = make_engine()
    question = prompt(100, 9)
    tokens = [*question, *engine.ask(question, 8, cache_salt="tenant a").tokens]
    sidecar = engine.pod.sidecar
    sidecar.when("the salted pages to be stored", lambda s: s.stores and s.stores[0].pages == len(tokens) // 16)
    engine.ask(prompt(100, 10), 8, lora_task_id=3)
    engine.restart()
    assert engine.ask(question, 8).loaded == 0
    assert engine.ask(question, 8, cache_salt="tenant b").loaded == 0
    assert engine.ask(question, 8, cache_salt="tenant a").loaded == 96
    assert engine.ask(prompt(100, 10), 8).loaded == 0


def test_warm_up_requests_bring_the_prefixes_back_before_anybody_asks(
    make_engine: Callable[..., TrtEngine], reference: Reference
) -> None:
    engine = make_engine()
    questions = [prompt(100 + 16 * seed, seed) for seed in range(3)]
    for question in questions:
        when_stored(engine, [*question, *engine.ask(question).tokens])
    engine.variables["WARM_UP_URL"] = engine.url
    engine.restart()
    until("the warm-up to end", lambda: "warmed up with 3 of 3 prompts" in engine.output(), 60.0)
    for question in questions:
        answer = engine.ask(question)
        assert answer.tokens == reference.tokens(question)
        assert (answer.found, answer.loaded) == ((len(question) - 1) // 16 * 16, 0)
    recovery = engine.pod.sidecar.recovery()
    assert recovery.pages_restored >= sum(len(question) // 16 for question in questions)
