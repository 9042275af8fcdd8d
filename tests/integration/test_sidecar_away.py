"""The sidecar is killed, stopped, late or absent: the engine serves as if it had none, and is found again."""

from __future__ import annotations

from collections.abc import Callable

from driving import NanoEngine, Pod, Reference, until
from driving.arena import find_damage, stored_pages
from driving.reference import chain, prompt


def pages_of(question: list[int], reference: Reference, count: int = 32) -> set[bytes]:
    return set(chain([*question, *reference.tokens(question, count)[:-1]]))


def holds(pod: Pod, keys: set[bytes]) -> bool:
    return keys <= set(stored_pages(pod.store_dir))


def test_an_engine_does_not_notice_that_its_sidecar_is_killed_and_restarted(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    question = prompt(300)
    with engine.stream(question, 300) as stream:
        for _ in stream:
            if len(stream.token_ids) == 20:
                pod.sidecar.kill()
            if len(stream.token_ids) == 60:
                pod.sidecar.start(wait=False)
    assert stream.token_ids == reference.tokens(question, 300)
    until("all its pages to be stored", lambda: holds(pod, pages_of(question, reference, 300)))
    assert find_damage(pod.store_dir, reference) == []
    engine.restart()
    assert engine.ask(question).cached_tokens == 288


def test_live_pages_are_announced_again_to_a_sidecar_that_lost_everything(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    questions = [prompt(400, seed) for seed in range(4)]
    for question in questions:
        engine.ask(question)
    pod.sidecar.kill()
    for path in pod.store_dir.iterdir():
        path.unlink()
    pod.sidecar.start()
    for question in questions:
        until("its pages to be stored", lambda question=question: holds(pod, pages_of(question, reference)))
    assert find_damage(pod.store_dir, reference) == []


def test_pages_committed_while_others_are_announced_again_are_not_lost(pod: Pod, reference: Reference) -> None:
    """A child must not be announced before its parent, or the store would refuse the orphan for good."""
    engine = pod.engine(pages=1024)
    for seed in range(12):
        engine.ask(prompt(800, seed), 1)
    question = prompt(300, 99)
    pod.sidecar.kill()
    for path in pod.store_dir.iterdir():
        path.unlink()
    with engine.stream(question, 600) as stream:
        for _ in stream:
            if len(stream.token_ids) == 5:
                pod.sidecar.start(wait=False)
    pod.sidecar.wait_until_serving()
    until("its pages to be stored", lambda: holds(pod, pages_of(question, reference, 600)))


def test_a_sidecar_that_starts_after_the_engine_is_found(make_pod: Callable[..., Pod], reference: Reference) -> None:
    pod = make_pod()
    engine = pod.engine()
    question = prompt(300)
    assert engine.ask(question).token_ids == reference.tokens(question)
    pod.sidecar.start()
    until("its pages to be stored", lambda: holds(pod, pages_of(question, reference)))
    engine.restart()
    assert engine.ask(question).cached_tokens == 288


def test_an_engine_without_a_sidecar_starts_at_once_and_serves(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    pod = make_pod()
    engine = pod.engine()
    question = prompt(300)
    assert engine.ask(question).token_ids == reference.tokens(question)
    engine.restart()
    assert engine.ask(question).token_ids == reference.tokens(question)


def serves_with_frozen_sidecar(engine: NanoEngine, reference: Reference, seed: int) -> None:
    """Within the harness' deadline: the sidecar answers nothing meanwhile, and never will."""
    question = prompt(300, seed)
    assert engine.ask(question).token_ids == reference.tokens(question)


def test_a_sidecar_stopped_during_start_up_delays_the_engine_by_a_bounded_time(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    engine.ask(prompt(300, 1))
    pod.sidecar.when_idle()
    engine.kill()
    pod.sidecar.when_released()
    pod.sidecar.freeze()
    engine.start()
    serves_with_frozen_sidecar(engine, reference, 2)
    pod.sidecar.thaw()
    until("its pages to be stored", lambda: holds(pod, pages_of(prompt(300, 2), reference)))
    again = engine.ask(prompt(300, 1))
    assert again.token_ids == reference.tokens(prompt(300, 1))
    assert again.cached_tokens == 288, "what was stored is loaded when it is asked for"


def test_a_sidecar_stopped_in_service_disturbs_nobody_and_catches_up(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    engine.ask(prompt(300, 1))
    pod.sidecar.when_idle()
    pod.sidecar.freeze()
    serves_with_frozen_sidecar(engine, reference, 2)
    pod.sidecar.thaw()
    until("its pages to be stored", lambda: holds(pod, pages_of(prompt(300, 2), reference)))
    assert find_damage(pod.store_dir, reference) == []


def test_a_stopped_sidecar_hears_of_an_engines_death_when_it_goes_on(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    pod.sidecar.ready_copiers()
    pod.sidecar.freeze()
    question = prompt(300)
    engine.ask(question)
    engine.kill()
    pod.sidecar.thaw()
    pod.sidecar.when_released()
    assert holds(pod, pages_of(question, reference))
    assert pod.sidecar.recovery().pages_unsaved == 0


def test_a_sidecar_told_to_stop_lets_go_of_a_serving_engine_and_keeps_its_pages(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    question = prompt(300)
    engine.ask(question)
    assert pod.sidecar.terminate() == 0
    assert holds(pod, pages_of(question, reference))
    assert engine.ask(prompt(300, 2)).token_ids == reference.tokens(prompt(300, 2))
    pod.sidecar.start()
    until("the new pages to be stored", lambda: holds(pod, pages_of(prompt(300, 2), reference)))


def test_a_second_sidecar_for_the_same_directories_is_refused(pod: Pod, make_pod: Callable[..., Pod]) -> None:
    other = make_pod()
    other.sidecar.run_dir = pod.sidecar.run_dir
    other.sidecar.start(wait=False)
    assert other.sidecar.process is not None
    assert other.sidecar.process.wait() != 0
    assert "a live sidecar has it" in other.sidecar.output()
    pod.engine()
    assert pod.sidecar.engine().state in ("attached", "restoring", "running")
