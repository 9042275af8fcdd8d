"""`rekindle run` with a real engine: a hang ends in a restart, a stop leaves everything in the store."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from driving import Reference, until
from driving.arena import stored_pages
from driving.process import stop_and_wait
from driving.reference import chain, prompt
from driving.supervised import Supervised
from nano_engine.client import EngineGone

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    with Supervised(hang_timeout="3s", grace="2") as supervised:
        yield supervised


def test_an_engine_that_hangs_is_ended_and_the_next_one_has_its_pages(
    supervised: Supervised, reference: Reference
) -> None:
    supervised.start()
    engine = supervised.engine()
    question = prompt(300)
    with engine.stream(question, 3000) as stream:
        for _ in stream:
            if len(stream.token_ids) >= 60:
                break
        stop_and_wait(engine.pid)
        with pytest.raises(EngineGone):
            for _ in stream:
                pass
        got = stream.token_ids
    fresh = supervised.engine(2)
    assert fresh.pid != engine.pid
    said = supervised.output()
    assert f"engine, pid {engine.pid}: it hangs: no step for " in said
    assert "killing its group" in said, "a stopped process cannot take SIGTERM"
    assert "engine was killed by SIGKILL" in said
    rest = fresh.ask([*question, *got], 20)
    assert [*got, *rest.token_ids] == reference.tokens(question, len(got) + 20)
    assert rest.cached_tokens >= 300 // 16 * 16
    last = supervised.status().last_recovery
    assert last is not None
    assert last.pages_restored >= 300 // 16
    assert supervised.terminate() == 0
    assert supervised.members() == []


def test_a_server_that_ends_well_without_having_been_asked_to_is_restarted(supervised: Supervised) -> None:
    """As vLLM's does when its engine process was killed."""
    supervised.start()
    engine = supervised.engine()
    until("it to be seen", lambda: f"engine, pid {engine.pid}: it has attached" in supervised.output())
    os.kill(engine.pid, signal.SIGTERM)
    assert supervised.engine(2).pid != engine.pid
    assert "engine exited with 0 after" in supervised.output()
    assert supervised.terminate() == 0
    assert "engine exited with 0, not restarted" in supervised.output()


def test_another_engine_of_the_same_sidecar_is_not_ended_for_a_hang_that_is_not_its_own(
    supervised: Supervised,
) -> None:
    supervised.start()
    engine = supervised.engine()
    with Supervised(hang_timeout="3s") as second:
        second.directory.joinpath("run").symlink_to(supervised.directory / "run")
        second.start()
        other = second.engine()
        assert "sidecar is running already" in second.output()
        with other.stream(prompt(100), 3000) as stream:
            for _ in stream:
                if len(stream.token_ids) >= 60:
                    break
            stop_and_wait(other.pid)
            second.engine(2)
        assert second.terminate() == 0
    assert "; ending it" not in supervised.output()
    os.kill(engine.pid, 0)
    assert supervised.terminate() == 0


def test_a_stop_drains_and_leaves_everything_in_the_store(reference: Reference) -> None:
    """Also what takes longer than a salvage may: no fresh engine waits."""
    budget_s = 1.0
    with Supervised(salvage_budget=f"{budget_s}s", copier_timeout="30s") as supervised:
        supervised.start()
        engine = supervised.engine()
        (copier,) = until("a copier", lambda: copiers(supervised))
        stop_and_wait(copier)
        question = prompt(500)
        assert engine.ask(question).token_ids == reference.tokens(question)
        assert stored_pages(supervised.store_dir) == {}
        supervised.process.signal(signal.SIGTERM)
        until("the sidecar to be stopped", lambda: "event=stopping" in supervised.output())
        assert "engine exited with 0, not restarted" in supervised.output()
        over_s = time.monotonic() + budget_s
        until("the salvage's usual budget to be over", lambda: time.monotonic() > over_s)
        os.kill(copier, signal.SIGCONT)
        assert supervised.process.wait(60.0) == 0
        complete = chain([*question, *reference.tokens(question)[:-1]])
        assert set(stored_pages(supervised.store_dir)) == set(complete)
        assert supervised.members() == []


def copiers(supervised: Supervised) -> list[int]:
    found = []
    for pid in supervised.members():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if b"rekindle.copier" in file.read():
                    found.append(pid)
        except OSError:
            continue
    return found
