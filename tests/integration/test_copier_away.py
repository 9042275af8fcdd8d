"""Copiers are killed and stopped in the middle of their work, and so is the keeper in the middle of a load."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from driving import NanoEngine, Pod, Reference, until
from driving.arena import find_damage, stored_pages
from driving.process import mappers, proceed, shared_memory, state, stop_and_wait
from driving.reference import chain, prompt
from nano_engine.client import Completion


class Asking(threading.Thread):
    """One completion on a thread of its own."""

    def __init__(self, engine: NanoEngine, question: list[int]) -> None:
        super().__init__(daemon=True)
        self.answer: Completion | None = None
        self._engine, self._question = engine, question
        self.start()

    def run(self) -> None:
        self.answer = self._engine.ask(self._question)

    def result(self, timeout_s: float) -> Completion:
        self.join(timeout_s)
        assert self.answer is not None, f"no answer within {timeout_s} s"
        return self.answer


def load_in_flight(pod: Pod, reference: Reference) -> tuple[NanoEngine, int, list[int], Asking]:
    """An engine that waits for pages which its copier, stopped, does not fill: a question asked, and its thread."""
    engine = pod.engine(pages=64)
    question = prompt(600)
    engine.ask(question)
    pod.sidecar.when_idle()
    engine.ask(prompt(900, 1))  # drives the first one's pages out of the engine's cache
    pod.sidecar.when_idle()
    (copier,) = pod.sidecar.ready_copiers()
    stop_and_wait(copier)
    asking = Asking(engine, question)
    engine.when_metric("requests_waiting", 1)
    return engine, copier, question, asking


def check_after(pod: Pod, engine: NanoEngine, reference: Reference) -> None:
    """The engine is as it should be: right tokens, no page held by nobody, its pages copied by a new copier."""
    for seed in (1, 0, 5):
        assert engine.ask(prompt(600, seed)).token_ids == reference.tokens(prompt(600, seed))
    engine.when_metric("pages_used", 0)
    pod.sidecar.ready_copiers()
    keys = set(chain(prompt(600, 5)))
    until("new pages to be stored", lambda: keys <= set(stored_pages(pod.store_dir)))
    assert find_damage(pod.store_dir, reference) == []


def test_a_killed_copier_is_replaced_and_no_page_is_lost(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    (copier,) = pod.sidecar.ready_copiers()
    question = prompt(300)
    with engine.stream(question, 200) as stream:
        for _ in stream:
            if len(stream.token_ids) == 30:
                os.kill(copier, signal.SIGKILL)
    assert stream.token_ids == reference.tokens(question, 200)
    complete = set(chain([*question, *stream.token_ids[:-1]]))
    until("all pages to be stored", lambda: complete <= set(stored_pages(pod.store_dir)))
    assert pod.sidecar.ready_copiers() != [copier]
    assert pod.sidecar.status().copier_crashes == 1
    assert find_damage(pod.store_dir, reference) == []


def test_a_stuck_copier_is_killed_and_replaced(make_pod: Callable[..., Pod], reference: Reference) -> None:
    pod = make_pod(copier_timeout="300ms")
    pod.sidecar.start()
    engine = pod.engine()
    (copier,) = pod.sidecar.ready_copiers()
    stop_and_wait(copier)
    question = prompt(300)
    assert engine.ask(question).token_ids == reference.tokens(question)
    until("the stuck copier to be killed", lambda: state(copier) == "")
    complete = set(chain([*question, *reference.tokens(question)[:-1]]))
    until("all pages to be stored", lambda: complete <= set(stored_pages(pod.store_dir)))
    assert find_damage(pod.store_dir, reference) == []


def test_a_load_whose_copier_is_killed_is_computed_instead(pod: Pod, reference: Reference) -> None:
    engine, copier, question, asking = load_in_flight(pod, reference)
    os.kill(copier, signal.SIGKILL)
    assert asking.result(10).token_ids == reference.tokens(question)
    check_after(pod, engine, reference)


def test_a_load_whose_copier_goes_on_is_served_from_the_store(pod: Pod, reference: Reference) -> None:
    engine, copier, question, asking = load_in_flight(pod, reference)
    proceed(copier)
    answer = asking.result(10)
    assert answer.token_ids == reference.tokens(question)
    assert answer.cached_tokens == 592
    check_after(pod, engine, reference)


def test_a_load_whose_keeper_is_killed_is_answered_and_its_copier_cannot_write_any_more(
    pod: Pod, reference: Reference
) -> None:
    engine, copier, question, asking = load_in_flight(pod, reference)
    pod.sidecar.kill()  # the kernel takes the stopped copier with it
    assert asking.result(10).token_ids == reference.tokens(question)
    assert state(copier) in ("Z", "")
    pod.sidecar.start()
    pod.sidecar.engine()
    check_after(pod, engine, reference)


def test_a_load_whose_keeper_is_stopped_ends_when_its_copier_is_gone(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    pod = make_pod(fill_timeout="1s")
    pod.sidecar.start()
    engine = pod.engine(pages=64)
    question = prompt(600)
    engine.ask(question)
    pod.sidecar.when_idle()
    engine.ask(prompt(900, 1))
    pod.sidecar.when_idle()
    (copier,) = pod.sidecar.ready_copiers()
    pod.sidecar.freeze()
    started = time.monotonic()
    asking = Asking(engine, question)
    assert asking.result(10).token_ids == reference.tokens(question)
    assert time.monotonic() - started < 5.0
    assert copier not in mappers(shared_memory(engine.pid, "nano-kv-cache")), "pages taken back from a living copier"
    pod.sidecar.thaw()
    check_after(pod, engine, reference)


def test_no_page_of_a_load_is_reused_while_its_copier_could_still_write(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    """Keeper and copier are both stopped: there is no proof, so the pages are not given back, whatever the time."""
    pod = make_pod(fill_timeout="300ms")
    pod.sidecar.start()
    engine, copier, question, asking = load_in_flight(pod, reference)
    pod.sidecar.freeze()
    held = engine.metric("pages_used")
    assert held >= len(chain(question))
    until("the shim to ask the copier to go", lambda: "asking its copiers to go" in engine.output())
    assert engine.ask(prompt(100, 7)).token_ids == reference.tokens(prompt(100, 7)), "others are served meanwhile"
    engine.when_metric("requests_running", 0)
    assert state(copier) == "T"
    assert engine.metric("pages_used") >= len(chain(question)), "pages were given back without proof"
    proceed(copier)
    assert asking.result(10).token_ids == reference.tokens(question)
    until("the copier to go", lambda: state(copier) in ("Z", ""))
    pod.sidecar.thaw()
    check_after(pod, engine, reference)
