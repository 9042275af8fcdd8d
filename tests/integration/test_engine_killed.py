"""The engine is killed with SIGKILL: the next one goes on as if nothing had happened."""

from __future__ import annotations

import time

import pytest
from driving import NanoEngine, Pod, Reference, until
from driving.arena import find_damage, stored_pages
from driving.process import mappers, shared_memory
from driving.reference import chain, computed_pages, prompt


def seen_before_kill(engine: NanoEngine, tokens: list[int], count: int) -> list[int]:
    """Streams until the client has seen `count` tokens, and kills the engine at that moment."""
    with engine.stream(tokens, 200) as stream:
        for _ in stream:
            if len(stream.token_ids) == count:
                break
        engine.kill()
        return stream.token_ids


def test_a_restarted_engine_gives_the_same_tokens_out_of_its_old_cache(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    question = prompt(600)
    assert engine.ask(question).token_ids == reference.tokens(question)
    engine.restart()
    again = engine.ask(question)
    assert again.token_ids == reference.tokens(question)
    assert again.cached_tokens == 592
    # 600 + 32 tokens, of which the last has no KV: 39 full pages were committed and came back.
    assert pod.sidecar.engine().pages.restored == 39
    assert pod.sidecar.recovery().pages_restored == 39
    assert pod.sidecar.recovery().tokens_restored == 39 * 16
    assert pod.sidecar.recovery().pages_rejected == {}
    assert find_damage(pod.store_dir, reference) == []


@pytest.mark.parametrize("seen", [1, 2, 15, 16, 17, 40, 100])
def test_a_stream_cut_by_a_kill_goes_on_with_less_than_a_page_recomputed(
    pod: Pod, reference: Reference, seen: int
) -> None:
    engine = pod.engine()
    question = prompt(200, seen)
    whole = reference.tokens(question, 120)
    got = seen_before_kill(engine, question, seen)
    assert got == whole[:seen]
    engine.start()
    rest = engine.ask([*question, *got], 120 - len(got))
    assert [*got, *rest.token_ids] == whole
    expected = computed_pages(len(question), len(got)) * 16
    assert rest.cached_tokens == expected
    assert len(question) + len(got) - 1 - expected < 16, "a page or more had to be recomputed"


def test_every_page_complete_before_the_kill_is_in_the_store_after_it(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    question = prompt(300, 5)
    for seen in (3, 30, 60):
        got = seen_before_kill(engine, question, seen)
        pod.sidecar.when_released()
        complete = chain([*question, *got])[: computed_pages(len(question), len(got))]
        assert [key for key in complete if key not in stored_pages(pod.store_dir)] == []
        assert pod.sidecar.recovery().pages_unsaved == 0
        assert find_damage(pod.store_dir, reference) == []
        engine.start()


def test_many_streams_are_cut_at_once_and_all_of_them_go_on(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    questions = [[*prompt(64, 9), *prompt(50 + 10 * index, index)] for index in range(6)]
    streams = [engine.stream(question, 60) for question in questions]
    for stream in streams:
        next(iter(stream))
    for _ in streams[-1]:
        if len(streams[-1].token_ids) >= 20:
            break
    engine.restart()
    for question, stream in zip(questions, streams, strict=True):
        stream.close()
        got = stream.token_ids
        whole = reference.tokens(question, 60)
        assert got == whole[: len(got)]
        rest = engine.ask([*question, *got], 60 - len(got))
        assert [*got, *rest.token_ids] == whole
        assert rest.cached_tokens >= computed_pages(len(question), len(got)) * 16


def test_an_engine_killed_before_it_serves_leaves_nothing_wrong(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    question = prompt(900, 2)
    engine.ask(question)
    for attached in (False, True):
        engine.kill()
        engine.start(wait=False)
        if attached:
            until("the engine to attach", lambda: pod.sidecar.status().engines)
        engine.kill()
    engine.start()
    again = engine.ask(question)
    assert again.token_ids == reference.tokens(question)
    assert again.cached_tokens == 896
    assert find_damage(pod.store_dir, reference) == []


def test_the_memory_of_a_dead_engine_is_let_go_of_at_once(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    times = []
    for seed in range(4):
        engine.ask(prompt(600, seed))
        pod.sidecar.when_idle()
        memory = shared_memory(engine.pid, "nano-kv-cache")
        assert len(mappers(memory)) == 2, "the engine and its copier"
        died = time.monotonic()
        engine.kill()
        until("the dead engine's memory to be released", lambda memory=memory: not mappers(memory))
        times.append(time.monotonic() - died)
        pod.sidecar.when_released()
        engine.start()
    print("released after", " ".join(f"{took * 1000:.0f}" for took in times), "ms")
