"""Who is sent again after repeated deaths: the decision, without an engine."""

from __future__ import annotations

import random

import pytest
from rekindle.proxy.limits import PROGRESS_TOKENS
from rekindle.proxy.suspects import Suspects, Verdict


def crash(suspects: Suspects, tokens: dict[int, int]) -> dict[int, Verdict]:
    """The engine dies under these requests, which have so many tokens by then."""
    return {request: suspects.died(request, count) for request, count in tokens.items()}


@pytest.mark.parametrize(
    ("progress", "verdicts"),
    [
        ([0], [Verdict.FREE]),
        ([0, 0], [Verdict.FREE, Verdict.SUSPECT]),
        ([0, 0, 0], [Verdict.FREE, Verdict.SUSPECT, Verdict.CONVICTED]),
        ([100, 0, 0], [Verdict.FREE, Verdict.SUSPECT, Verdict.CONVICTED]),
        ([0, PROGRESS_TOKENS, 0], [Verdict.FREE, Verdict.FREE, Verdict.SUSPECT]),
        ([0, PROGRESS_TOKENS - 1, 0], [Verdict.FREE, Verdict.SUSPECT, Verdict.CONVICTED]),
        (
            [0, 0, PROGRESS_TOKENS, 0, 0],
            [Verdict.FREE, Verdict.SUSPECT, Verdict.FREE, Verdict.SUSPECT, Verdict.CONVICTED],
        ),
    ],
)
def test_a_request_that_stands_still_over_three_deaths_is_convicted(
    progress: list[int], verdicts: list[Verdict]
) -> None:
    suspects, tokens, found = Suspects(), 0, []
    for step in progress:
        suspects.went(1, tokens)
        tokens += step
        found.append(suspects.died(1, tokens))
    assert found == verdicts


def test_after_one_death_all_go_at_once_and_after_two_one_at_a_time() -> None:
    suspects = Suspects()
    for _ in range(2):
        for request in range(5):
            assert suspects.may_go(request)
            suspects.went(request, 0)
        crash(suspects, dict.fromkeys(range(5), 0))
    assert suspects.count == 5
    suspects.went(3, 0)
    assert [request for request in range(5) if suspects.may_go(request)] == [3]
    assert suspects.may_go(99), "a new request has nothing to do with it"
    assert not suspects.got_on(3, PROGRESS_TOKENS - 1)
    assert suspects.got_on(3, PROGRESS_TOKENS)
    assert all(suspects.may_go(request) for request in range(5))


def test_a_suspect_that_leaves_makes_room() -> None:
    suspects = Suspects()
    for _ in range(2):
        for request in (1, 2):
            suspects.went(request, 0)
        crash(suspects, {1: 0, 2: 0})
    suspects.went(1, 0)
    assert not suspects.may_go(2)
    suspects.over(1)
    assert suspects.may_go(2)
    assert suspects.count == 1


@pytest.mark.parametrize("seed", range(30))
def test_one_poison_among_many_costs_three_engines_and_nobody_elses_answer(seed: int) -> None:
    """A model of an engine that dies whenever the poison runs, after the others got a random number of tokens."""
    source = random.Random(f"poison {seed}")
    count, poison, length = 8, source.randrange(8), 200
    suspects, tokens, gone = Suspects(), dict.fromkeys(range(count), 0), set()
    deaths = 0
    while len(gone) < count:
        running = []
        waiting = [request for request in range(count) if request not in gone]
        source.shuffle(waiting)
        for request in waiting:
            if suspects.may_go(request):
                suspects.went(request, tokens[request])
                running.append(request)
        assert running, "everybody waits for everybody"
        if poison in running:
            deaths += 1
            for request in running:
                tokens[request] += 0 if request == poison else source.choice([0, 0, 3, 40])
            for request, verdict in crash(suspects, {request: tokens[request] for request in running}).items():
                if verdict is Verdict.CONVICTED:
                    assert request == poison
                    suspects.over(request)
                    gone.add(request)
        else:
            for request in running:
                tokens[request] += PROGRESS_TOKENS
                suspects.got_on(request, tokens[request])
                if tokens[request] >= length:
                    suspects.over(request)
                    gone.add(request)
    assert deaths == 3
