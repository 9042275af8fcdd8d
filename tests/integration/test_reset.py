"""The engine's cache is reset: the pages of before are gone at once, for everybody."""

from __future__ import annotations

import os
from contextlib import closing

from driving import NanoEngine, Pod, Reference, until
from driving.arena import find_damage, stored_pages
from driving.impostor import IDENTITY, PAGE_BYTES, PAGE_TOKENS, PAGES, Impostor
from driving.process import stop_and_wait
from driving.reference import chain, prompt
from rekindle_plugins.contract.journal import ROOT, pack_payload


def with_pages(pod: Pod, question: list[int]) -> NanoEngine:
    """An engine whose pages for a question are stored."""
    engine = pod.engine()
    engine.ask(question)
    pod.sidecar.when_idle()
    assert set(chain(question)) <= set(stored_pages(pod.store_dir))
    return engine


def check_nothing_comes_back(engine: NanoEngine, question: list[int], reference: Reference) -> None:
    again = engine.ask(question)
    assert again.token_ids == reference.tokens(question)
    assert again.cached_tokens == 0


def test_after_a_reset_nothing_of_before_is_stored_and_new_pages_are(pod: Pod, reference: Reference) -> None:
    question = prompt(400)
    engine = with_pages(pod, question)
    engine.reset_prefix_cache()
    until("the old pages to be gone", lambda: not stored_pages(pod.store_dir))
    check_nothing_comes_back(engine, question, reference)
    until("the new pages to be stored", lambda: set(chain(question)) <= set(stored_pages(pod.store_dir)))
    assert find_damage(pod.store_dir, reference) == []
    # A fresh engine has the weights of its files, not those that the reset one was left with.
    engine.restart()
    check_nothing_comes_back(engine, question, reference)


def test_a_reset_while_the_sidecar_is_down_takes_effect_when_it_is_back(pod: Pod, reference: Reference) -> None:
    question = prompt(400)
    engine = with_pages(pod, question)
    pod.sidecar.kill()
    engine.reset_prefix_cache()
    assert stored_pages(pod.store_dir)
    pod.sidecar.start()
    until("the old pages to be gone", lambda: not stored_pages(pod.store_dir))
    engine.restart()
    check_nothing_comes_back(engine, question, reference)


def test_a_hundred_resets_without_a_sidecar_do_not_keep_the_engine_from_attaching(
    pod: Pod, reference: Reference
) -> None:
    question = prompt(400)
    engine = with_pages(pod, question)
    pod.sidecar.kill()
    for _ in range(100):
        engine.reset_prefix_cache()
    pod.sidecar.start()
    pod.sidecar.engine()
    until("the old pages to be gone", lambda: not stored_pages(pod.store_dir))
    assert pod.sidecar.status().refused == {}


def test_an_engine_killed_right_after_its_reset_leaves_nothing_of_before(pod: Pod, reference: Reference) -> None:
    for seed in range(3):
        question = prompt(400, seed)
        engine = with_pages(pod, question)
        engine.reset_prefix_cache()
        engine.kill()
        pod.sidecar.when_released()
        assert not set(chain(question)) & set(stored_pages(pod.store_dir))
        engine.start()
        check_nothing_comes_back(engine, question, reference)
        engine.kill()
        pod.sidecar.when_released()


def test_a_reset_that_the_sidecar_sees_only_after_the_engines_death_still_counts(
    pod: Pod, reference: Reference
) -> None:
    question = prompt(400)
    engine = with_pages(pod, question)
    pod.sidecar.freeze()
    engine.reset_prefix_cache()
    engine.kill()
    pod.sidecar.thaw()
    pod.sidecar.when_released()
    assert stored_pages(pod.store_dir) == {}
    engine.start()
    check_nothing_comes_back(engine, question, reference)


def test_a_reset_that_died_unread_with_the_sidecar_is_told_again(pod: Pod, reference: Reference) -> None:
    question = prompt(400)
    engine = with_pages(pod, question)
    pod.sidecar.freeze()
    engine.reset_prefix_cache()  # it lies in the socket of a process that will not read it
    pod.sidecar.kill()
    assert stored_pages(pod.store_dir)
    pod.sidecar.start()
    until("the old pages to be gone", lambda: not stored_pages(pod.store_dir))
    engine.restart()
    check_nothing_comes_back(engine, question, reference)


def test_many_resets_at_once_leave_one_engine_with_one_copier(pod: Pod, reference: Reference) -> None:
    question = prompt(400)
    engine = with_pages(pod, question)
    pod.sidecar.freeze()
    for _ in range(5):
        engine.reset_prefix_cache()
        engine.ask(question)
    pod.sidecar.thaw()
    until("the pages of after the last reset", lambda: set(chain(question)) <= set(stored_pages(pod.store_dir)))
    pod.sidecar.ready_copiers(1)
    assert find_damage(pod.store_dir, reference) == []
    assert [engine.state for engine in pod.sidecar.status().engines] == ["running"]
    check_again = engine.ask(question)
    assert check_again.token_ids == reference.tokens(question)
    engine.kill()
    pod.sidecar.when_released()
    until("no copier to be left", lambda: pod.sidecar.copiers() == [])


def test_a_load_cut_by_a_reset_gives_no_page_of_before(pod: Pod, reference: Reference) -> None:
    engine = pod.engine(pages=64)
    question = prompt(600)
    engine.ask(question)
    pod.sidecar.when_idle()
    engine.ask(prompt(900, 1))
    pod.sidecar.when_idle()
    (copier,) = pod.sidecar.ready_copiers()
    stop_and_wait(copier)
    with engine.stream(question) as stream:
        engine.when_metric("requests_waiting", 1)
        engine.reset_prefix_cache()
        assert list(stream) == reference.tokens(question)
    assert stream.cached_tokens == 0
    assert find_damage(pod.store_dir, reference) == []


def test_a_fill_that_is_read_together_with_a_reset_gets_no_page_of_before(pod: Pod) -> None:
    """Both lie in the socket when the sidecar wakes up: the fill is for the engine that it is after the reset."""
    key, old_bytes = b"k" * 32, b"\xaa" * PAGE_BYTES
    for attempt in range(4):
        with closing(Impostor(pod.sidecar.run_dir)) as engine:
            engine.attach()
            os.pwrite(engine.memory, old_bytes, 0)
            engine.journal.append(pack_payload(0, 0, 0, 0, key, ROOT, (1,) * PAGE_TOKENS))
            os.eventfd_write(engine.wake, 1)
            pod.sidecar.when("the page to be stored", lambda s: any(store.pages for store in s.stores))
            pod.sidecar.ready_copiers()
            pod.sidecar.freeze()
            generation = engine.journal.raise_generation()
            engine.fence.raise_pages(range(PAGES))
            identity = IDENTITY.with_field("weight_version", f"{attempt}")
            engine.leader.send("reset", identity=dict(identity.fields), generation=generation)
            engine.leader.send("fill", fill_id=1, pages=[[5, engine.fence.epoch(5), 0, key.hex()]])
            pod.sidecar.thaw()
            answer = engine.leader.answer()
            while answer is not None and answer["type"] != "filled":
                answer = engine.leader.answer()
            assert answer is not None
            assert answer["pages"] == [[5, "resetting"]]
            assert os.pread(engine.memory, PAGE_BYTES, 5 * PAGE_BYTES) == bytes(PAGE_BYTES)
        pod.sidecar.when_released()
