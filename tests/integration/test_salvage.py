"""Pages committed and not yet copied when the engine dies are read out of its memory, within the budget."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from driving import Pod, Reference, until
from driving.arena import find_damage, stored_pages
from driving.process import proceed, state, stop_and_wait
from driving.reference import chain, prompt


def uncopied_after_death(pod: Pod, question: list[int], reference: Reference) -> int:
    """Lets an engine commit while its copier is stopped, and kills it. Returns the copier."""
    engine = pod.engine()
    (copier,) = pod.sidecar.ready_copiers()
    stop_and_wait(copier)
    assert engine.ask(question).token_ids == reference.tokens(question)
    assert stored_pages(pod.store_dir) == {}
    engine.kill()
    return copier


def test_pages_committed_and_not_copied_are_salvaged_from_the_dead_engine(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    pod = make_pod(salvage_budget="10s")
    pod.sidecar.start()
    question = prompt(500)
    copier = uncopied_after_death(pod, question, reference)
    pod.sidecar.when("the death to be noticed", lambda s: [e.state for e in s.engines] == ["salvaging"])
    proceed(copier)
    pod.sidecar.when_released()
    complete = chain([*question, *reference.tokens(question)[:-1]])
    assert set(stored_pages(pod.store_dir)) == set(complete)
    assert find_damage(pod.store_dir, reference) == []
    report = pod.sidecar.recovery()
    assert (report.pages_salvaged, report.pages_unsaved) == (len(complete), 0)
    fresh = pod.engine()
    again = fresh.ask(question)
    assert again.token_ids == reference.tokens(question)
    assert again.cached_tokens == 496


def test_what_a_salvage_cannot_read_in_time_is_lost_and_nothing_else(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    pod = make_pod(salvage_budget="200ms")
    pod.sidecar.start()
    early, late = prompt(200, 1), prompt(500, 2)
    engine = pod.engine()
    engine.ask(early)
    pod.sidecar.when_idle()
    stored = set(stored_pages(pod.store_dir))
    (copier,) = pod.sidecar.ready_copiers()
    stop_and_wait(copier)
    engine.ask(late)
    engine.kill()
    pod.sidecar.when_released()
    assert state(copier) == "", "the copier that did not answer was not got rid of"
    report = pod.sidecar.recovery()
    assert report.pages_unsaved == len(chain([*late, *reference.tokens(late)[:-1]]))
    assert report.release_s is not None
    assert set(stored_pages(pod.store_dir)) == stored
    assert find_damage(pod.store_dir, reference) == []
    engine.start()
    assert engine.ask(early).cached_tokens == 192
    again = engine.ask(late)
    assert again.token_ids == reference.tokens(late)
    assert again.cached_tokens == 0


def test_the_next_engine_waits_for_the_last_pages_of_the_one_before(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    """It attaches while the salvage is still going on, and the store is still empty."""
    pod = make_pod(salvage_budget="10s")
    pod.sidecar.start()
    question = prompt(500)
    copier = uncopied_after_death(pod, question, reference)
    fresh = pod.engine(start=False)
    fresh.start(wait=False)
    pod.sidecar.when("the next engine to attach", lambda s: len(s.engines) == 2)
    proceed(copier)
    fresh.wait_until_serving()
    again = fresh.ask(question)
    assert again.token_ids == reference.tokens(question)
    assert again.cached_tokens == 496
    assert pod.sidecar.engine().pages.restored > 0


def test_pages_are_salvaged_though_the_copier_died_with_the_engine(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    pod = make_pod()
    pod.sidecar.start()
    engine = pod.engine()
    (copier,) = pod.sidecar.ready_copiers()
    stop_and_wait(copier)
    question = prompt(500)
    engine.ask(question)
    pod.sidecar.freeze()  # so that it sees both deaths at once
    engine.kill()
    os.kill(copier, signal.SIGKILL)
    until("the copier's end", lambda: state(copier) in ("Z", ""))
    pod.sidecar.thaw()
    pod.sidecar.when_released()
    complete = chain([*question, *reference.tokens(question)[:-1]])
    assert set(stored_pages(pod.store_dir)) == set(complete)
    assert pod.sidecar.recovery().pages_unsaved == 0
    assert find_damage(pod.store_dir, reference) == []
