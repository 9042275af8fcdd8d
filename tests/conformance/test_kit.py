"""The conformance kit: good plugins pass it, and every plugin that breaks a promise fails the check about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_plugins import BROKEN, Broken
from rekindle.conformance.outcome import Limits, Verdict
from rekindle.conformance.registry import CHECKS, named
from rekindle.conformance.run import run
from rekindle.conformance.subject import Subject, find

EXAMPLES = Path(__file__).parents[2] / "examples"
STUCK = Limits(call_s=8.0, event_s=8.0)
"""For plugins that are stuck for good: nothing that is right is waited for so long."""


@pytest.fixture(autouse=True)
def engine_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{EXAMPLES}:{Path(__file__).parent}")


def subject(driver: type[Broken]) -> Subject:
    return Subject("nano", "tests", driver.adapter(), f"broken_plugins:{driver.__name__}")


@pytest.mark.parametrize("driver", BROKEN, ids=lambda driver: driver.__name__)
def test_a_plugin_that_breaks_a_promise_fails_the_check_about_it(driver: type[Broken]) -> None:
    check, seen = driver.breaks
    (outcome,) = run(subject(driver), named([check]), STUCK)
    assert outcome.verdict is Verdict.FAILED, outcome
    assert seen in outcome.seen


@pytest.mark.parametrize(
    ("driver", "check"),
    [(driver, check) for driver in BROKEN for check in driver.also],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
def test_it_fails_the_other_checks_that_meet_it_too(driver: type[Broken], check: str) -> None:
    (outcome,) = run(subject(driver), named([check]), STUCK)
    assert outcome.verdict is Verdict.FAILED, outcome


def test_every_check_is_failed_by_some_plugin() -> None:
    """A check that nothing fails may check nothing."""
    assert {check.name for check in CHECKS} == {check for b in BROKEN for check in (b.breaks[0], *b.also)}


@pytest.mark.timeout(400)
def test_the_nano_plugin_keeps_every_promise() -> None:
    outcomes = list(run(find("nano"), CHECKS))
    assert [outcome for outcome in outcomes if outcome.verdict is not Verdict.PASSED] == []
