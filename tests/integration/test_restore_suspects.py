"""An engine that dies of what is restored to it gets less each time, until it lives: no crash loop of our making."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from driving import NanoEngine, Pod, Reference
from driving.arena import find_damage, stored_pages
from driving.reference import chain, prompt
from driving.supervised import Supervised
from nano_engine.client import EngineGone

DYING = "odd_plugins.dying:connect"


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, engines with restored pages die as soon as they work."""
    path = tmp_path / "poison"
    path.touch()
    monkeypatch.setenv("DIES_WHILE", str(path))
    return path


def dies(engine: NanoEngine, question: list[int]) -> None:
    with pytest.raises(EngineGone):
        engine.ask(question)
    assert not engine.is_running or engine.process is None or engine.process.wait() != 0


def test_an_engine_that_dies_right_after_a_restore_comes_up_cold_on_the_third_start(
    pod: Pod, reference: Reference, poison: Path
) -> None:
    engine = pod.engine(plugin=DYING)
    question = prompt(300)
    assert engine.ask(question).token_ids == reference.tokens(question)
    engine.restart()
    for suspicion in ("", "1 in a row died right after a restore: its pages are restored once more"):
        assert pod.sidecar.engine().pages.restored == 20
        assert pod.sidecar.recovery().suspicion == suspicion
        dies(engine, question)
        pod.sidecar.when_released()
        pod.sidecar.kill()  # what is suspected is known to the next sidecar, too
        pod.sidecar.start()
        engine.start()
    assert pod.sidecar.engine().pages.restored == 0
    assert pod.sidecar.recovery().suspicion.startswith("2 in a row died right after a restore: the pages")
    again = engine.ask(question, 100)
    assert again.token_ids == reference.tokens(question, 100)
    assert again.cached_tokens == 0
    # It has proved itself: the suspects were dropped, and its own pages took their place.
    pod.sidecar.when("the suspicion to be over", lambda _: "event=restore_cleared" in pod.sidecar.output())
    complete = set(chain([*question, *reference.tokens(question, 100)[:-1]]))
    pod.sidecar.when("its pages to be stored", lambda _: set(stored_pages(pod.store_dir)) == complete)
    assert find_damage(pod.store_dir, reference) == []
    poison.unlink()
    engine.restart()
    assert pod.sidecar.recovery().suspicion == ""
    assert engine.ask(question).cached_tokens == 288


def test_pages_that_were_never_restored_to_the_dead_come_back_and_after_a_third_death_none(
    pod: Pod, reference: Reference, poison: Path
) -> None:
    engine = pod.engine(plugin=DYING, pages=40)
    old, recent = prompt(320, 1), prompt(320, 2)
    for question in (old, prompt(320, 3), recent):  # of 20 pages each: the last two fill an engine
        engine.ask(question, 1)
        pod.sidecar.when_idle()
    engine.restart()
    restored = []
    for _ in range(3):
        restored.append(pod.sidecar.engine().pages.restored)
        dies(engine, recent)
        engine.start()
    assert restored == [40, 40, 20], "in the end those of the old conversation, which had no room before"
    assert pod.sidecar.recovery().suspicion == "3 in a row died right after a restore: it starts cold"
    assert pod.sidecar.engine().pages.restored == 0
    again = engine.ask(recent)
    assert again.token_ids == reference.tokens(recent)
    assert again.cached_tokens == 0
    assert pod.sidecar.engine().pages.restored == 0, "nothing was loaded lazily, either"


def test_an_engine_killed_while_it_idles_or_after_much_work_is_no_suspicion(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    question = prompt(300)
    engine.ask(question)
    for _ in range(3):
        engine.restart()
        assert pod.sidecar.engine().pages.restored == 20
        assert pod.sidecar.recovery().suspicion == ""
    for _ in range(3):
        with engine.stream(question, 200) as stream:
            for _ in stream:
                if len(stream.token_ids) >= 60:
                    break
            engine.restart()
        assert pod.sidecar.recovery().suspicion == ""
    assert engine.ask(question).token_ids == reference.tokens(question)


@pytest.mark.timeout(240)
def test_the_supervisor_gets_the_engine_to_serve_within_three_crashes(reference: Reference, poison: Path) -> None:
    with Supervised() as supervised:
        supervised.start(DYING)
        question = prompt(300)
        first = supervised.engine(1)
        assert first.ask(question).token_ids == reference.tokens(question)
        os.kill(first.pid, signal.SIGKILL)
        for number in (2, 3):
            with pytest.raises(EngineGone):
                supervised.engine(number).ask(question)
        assert supervised.engine(4).ask(question).token_ids == reference.tokens(question)
        assert ", start 5" not in supervised.output()
        assert supervised.terminate() == 0
