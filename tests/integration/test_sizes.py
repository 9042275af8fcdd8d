"""Too little room: in the engine's cache, in the store, for a second identity; and who may share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from driving import Pod, Reference, until
from driving.arena import arena_paths, find_damage, stored_pages
from driving.reference import chain, prompt


def test_a_small_engine_cache_gives_the_tokens_of_a_big_one(pod: Pod, reference: Reference) -> None:
    """More conversations at once than fit: pages are evicted, requests preempted, pages come back from the store."""
    engine = pod.engine(pages=48, max_running=8)
    questions = [[*prompt(96, 77), *prompt(200, seed)] for seed in range(6)]
    for _ in range(3):
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda question: engine.ask(question, 60).token_ids, questions))
        assert answers == [reference.tokens(question, 60) for question in questions]
    assert engine.metric("preemptions_total") > 0
    assert engine.metric("loaded_tokens_total") > 0
    engine.when_metric("pages_used", 0)
    assert find_damage(pod.store_dir, reference) == []


def test_the_store_gives_back_what_the_engine_had_no_room_for(pod: Pod, reference: Reference) -> None:
    engine = pod.engine(pages=48)
    questions = [prompt(500, seed) for seed in range(5)]
    for question in questions:
        engine.ask(question)
        pod.sidecar.when_idle()
    for question in questions:
        answer = engine.ask(question)
        assert answer.token_ids == reference.tokens(question)
        assert answer.cached_tokens == 496
        pod.sidecar.when_idle()


def test_a_small_store_evicts_and_never_keeps_an_orphan(make_pod: Callable[..., Pod], reference: Reference) -> None:
    pod = make_pod(store_size="1MiB")
    pod.sidecar.start()
    engine = pod.engine()
    for seed in range(12):
        question = prompt(300, seed)
        assert engine.ask(question).token_ids == reference.tokens(question)
        pod.sidecar.when_idle()
        assert find_damage(pod.store_dir, reference) == []
    store = pod.sidecar.store()
    assert store.evicted > 0
    assert store.pages <= store.slots < 70
    engine.restart()
    last = engine.ask(prompt(300, 11))
    assert last.token_ids == reference.tokens(prompt(300, 11))
    assert last.cached_tokens == 288, "the latest conversation is the last to be evicted"


def test_a_store_too_small_for_a_page_refuses_and_the_engine_serves(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    pod = make_pod(store_size="64KiB")
    pod.sidecar.start()
    engine = pod.engine()
    question = prompt(100)
    assert engine.ask(question).token_ids == reference.tokens(question)
    until("the refusal to be counted", lambda: pod.sidecar.status().refused.get("store_full"))
    until("the reason in the engine's log", lambda: "hold fewer than 4 pages" in engine.output())


def test_nothing_is_restored_into_another_model_and_the_field_is_named(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    question = prompt(300)
    engine.ask(question)
    pod.sidecar.when_idle()
    engine.kill()
    pod.sidecar.when_released()
    other = pod.engine(seed=1)
    answer = other.ask(question)
    assert answer.token_ids == Reference(seed=1).tokens(question)
    assert answer.token_ids != reference.tokens(question)
    assert answer.cached_tokens == 0
    mismatches = pod.sidecar.recovery().mismatches
    assert [text.partition(":")[0] for text in mismatches] == ["model_files"]


def test_a_second_engine_of_another_identity_is_refused_clearly_and_serves(pod: Pod, reference: Reference) -> None:
    first = pod.engine()
    question = prompt(300)
    first.ask(question)
    pod.sidecar.when_idle()
    second = pod.engine(seed=1)
    assert second.ask(question).token_ids == Reference(seed=1).tokens(question)
    assert pod.sidecar.status().refused == {"store_full": 1}
    assert "raise store_size" in second.output()
    # The first one is not disturbed, and once it is gone the second one gets its place.
    second.freeze()  # it asks again every few seconds, and would get the place of one that starts slowly
    first.restart()
    assert first.ask(question).cached_tokens == 288
    first.kill()
    second.thaw()
    until("the second engine to be attached", lambda: "leader attached" in second.output())
    assert second.ask(prompt(200, 3)).token_ids == Reference(seed=1).tokens(prompt(200, 3))
    until("its pages to be stored", lambda: set(chain(prompt(200, 3))) <= set(stored_pages(pod.store_dir)))


def test_two_engines_of_one_identity_share_the_store(pod: Pod, reference: Reference) -> None:
    first, second = pod.engine(), pod.engine()
    pod.sidecar.ready_copiers(2)
    question, other = prompt(300, 1), prompt(300, 2)
    first.ask(question)
    second.ask(other)
    pod.sidecar.when_idle()
    assert len(arena_paths(pod.store_dir)) == 1
    for engine, asked in ((first, other), (second, question)):
        answer = engine.ask(asked)
        assert answer.token_ids == reference.tokens(asked)
        assert answer.cached_tokens == 288, "what one engine has computed, the other one loads"
    first.kill()
    pod.sidecar.when("the first one to be released", lambda s: len(s.engines) == 1)
    assert second.ask(prompt(300, 3)).token_ids == reference.tokens(prompt(300, 3))
    first.start()
    assert first.ask(prompt(300, 3)).cached_tokens >= 0
    assert find_damage(pod.store_dir, reference) == []
