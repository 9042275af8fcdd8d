"""Who is sent again after repeated deaths: the decision, without an engine."""

from __future__ import annotations

import random

import pytest
from rekindle.proxy.limits import PROGRESS_TOKENS
from rekindle.proxy.suspects import Suspects, Verdict


def crash(suspects: Suspects, tokens: dict[int, int]) -> dict[int, Verdict]:
    """The engine dies under these requests, which have so many tokens by then."""
    return {request: suspects.died(request, count) for request, count in tokens.items()}


F, S, C = Verdict.FREE, Verdict.SUSPECT, Verdict.CONVICTED


@pytest.mark.parametrize(
    ("progress", "verdicts"),
    [
        ([0], [F]),
        ([0, 0], [F, S]),
        ([0, 0, 0], [F, S, C]),
        ([100, 0, 0], [F, S, C]),
        ([5, 0, 0], [F, S, C]),
        ([0, PROGRESS_TOKENS, 0], [F, F, S]),
        ([0, PROGRESS_TOKENS - 1, 0], [F, F, S]),
        ([0, 0, PROGRESS_TOKENS, 0, 0], [F, S, F, S, C]),
        ([1, 1, 1], [F, F, S]),
        ([1, 1, 1, 1, 1], [F, F, S, S, C]),
        ([1, 1, 1, PROGRESS_TOKENS, 1], [F, F, S, F, F]),
    ],
)
def test_standing_still_over_three_deaths_convicts_and_getting_on_between_them_takes_more(
    progress: list[int], verdicts: list[Verdict]
) -> None:
    suspects, tokens, found = Suspects(), 0, []
    for life, step in enumerate(progress):
        suspects.went(1, tokens, life)
        tokens += step
        suspects.life_over()
        found.append(suspects.died(1, tokens))
    assert found == verdicts


def suspected(requests: range) -> Suspects:
    """Two lives have ended with all of them in flight, and none got a token."""
    suspects = Suspects()
    for life in range(2):
        for request in requests:
            assert suspects.may_go(request, life, is_proven=False)
            suspects.went(request, 0, life)
        suspects.life_over()
        crash(suspects, dict.fromkeys(requests, 0))
    assert suspects.count == len(requests)
    return suspects


def test_after_one_death_all_go_at_once_and_after_two_one_at_a_time() -> None:
    suspects = suspected(range(5))
    suspects.went(3, 0, 2)
    assert [request for request in range(5) if suspects.may_go(request, 2, is_proven=True)] == [3]
    assert suspects.may_go(99, 2, is_proven=False), "a new request has nothing to do with it"
    assert not suspects.got_on(3, PROGRESS_TOKENS - 1)
    assert suspects.got_on(3, PROGRESS_TOKENS)
    assert all(suspects.may_go(request, 2, is_proven=False) for request in range(5))


def test_a_suspect_waits_until_the_engine_has_proved_itself_by_time_or_by_another_request() -> None:
    suspects = suspected(range(2))
    assert not suspects.may_go(0, 2, is_proven=False)
    assert suspects.may_go(0, 2, is_proven=True)
    suspects.went(99, 7, 2)
    assert not suspects.got_on(99, 7 + PROGRESS_TOKENS - 1)
    assert suspects.got_on(99, 7 + PROGRESS_TOKENS), "it is news that somebody waits for"
    assert not suspects.got_on(99, 7 + PROGRESS_TOKENS + 1), "and is told once"
    assert suspects.may_go(0, 2, is_proven=False)
    assert not suspects.may_go(0, 3, is_proven=False), "that was another life"


def test_an_engine_that_dies_without_a_suspect_clears_all_of_them() -> None:
    suspects = suspected(range(3))
    suspects.went(99, 0, 2)
    suspects.life_over()
    assert suspects.died(99, 0) is F
    assert suspects.count == 0
    assert all(suspects.may_go(request, 3, is_proven=False) for request in range(3))


def test_an_engine_that_dies_under_a_suspect_clears_nobody() -> None:
    suspects = suspected(range(3))
    suspects.went(1, 0, 2)
    suspects.life_over()
    assert suspects.died(1, 0) is C
    suspects.over(1)
    assert suspects.count == 2


def test_an_attempt_that_was_not_sent_is_not_in_flight_at_the_death() -> None:
    suspects = suspected(range(2))
    suspects.went(0, 0, 2)
    suspects.stopped(0)
    suspects.life_over()
    assert suspects.count == 0


@pytest.mark.parametrize("seed", range(30))
def test_quick_kills_from_outside_convict_nobody(seed: int) -> None:
    """Whoever is in flight gets a few tokens before each of four kills; or none, and then the kills come at once."""
    source = random.Random(f"outside {seed}")
    suspects, tokens = Suspects(), dict.fromkeys(range(8), 0)
    at_once = source.random() < 0.5
    for life in range(12 if at_once else 4):
        running = [request for request in tokens if suspects.may_go(request, life, is_proven=not at_once)]
        for request in running:
            suspects.went(request, tokens[request], life)
            tokens[request] += 0 if at_once else source.randint(1, PROGRESS_TOKENS - 1)
        suspects.life_over()
        assert C not in crash(suspects, {request: tokens[request] for request in running}).values()


def test_a_suspect_that_leaves_makes_room() -> None:
    suspects = suspected(range(1, 3))
    suspects.went(1, 0, 2)
    assert not suspects.may_go(2, 2, is_proven=True)
    suspects.over(1)
    assert suspects.may_go(2, 2, is_proven=True)
    assert suspects.count == 1


@pytest.mark.parametrize("seed", range(30))
def test_one_poison_among_many_costs_three_engines_and_nobody_elses_answer(seed: int) -> None:
    """A model of an engine that dies whenever the poison runs, after the others got a random number of tokens."""
    source = random.Random(f"poison {seed}")
    count, poison, length = 8, source.randrange(8), 200
    suspects, tokens, gone = Suspects(), dict.fromkeys(range(count), 0), set()
    deaths = life = 0
    while len(gone) < count:
        running = []
        waiting = [request for request in range(count) if request not in gone]
        source.shuffle(waiting)
        for request in waiting:
            # Time passes: nobody waits for ever for an engine that does not die.
            if suspects.may_go(request, life, is_proven=True):
                suspects.went(request, tokens[request], life)
                running.append(request)
        assert running, "everybody waits for everybody"
        if poison in running:
            deaths, life = deaths + 1, life + 1
            suspects.life_over()
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


def test_streams_that_are_replayed_and_killed_from_outside_get_on() -> None:
    """All have 1,000 tokens, and are killed again when 900 of them have been generated a second time."""
    suspects = Suspects()
    for life, place in enumerate((1000, 900, 950)):
        for request in range(3):
            assert suspects.may_go(request, life, is_proven=False)
            suspects.went(request, 0, life)
            suspects.got_on(request, place + request)
        suspects.life_over()
        assert crash(suspects, {request: place + request for request in range(3)}) == {0: F, 1: F, 2: F}
    assert suspects.count == 0


@pytest.mark.parametrize("place", [PROGRESS_TOKENS, 900])
def test_who_dies_at_the_same_place_of_three_replays_is_convicted_however_far_it_is(place: int) -> None:
    suspects, found = Suspects(), []
    for life in range(3):
        assert suspects.may_go(1, life, is_proven=True)
        suspects.went(1, 0, life)
        for there in range(1, place + 1):
            suspects.got_on(1, there)
        suspects.life_over()
        found.append(suspects.died(1, place))
    assert found == [F, S, C]


def test_an_answer_that_nobody_hears_of_is_cleared_by_its_engine_that_lives() -> None:
    suspects = suspected(range(2))
    suspects.went(0, 0, 2)
    assert not suspects.may_go(1, 2, is_proven=True)
    assert suspects.outlived(0)
    assert suspects.may_go(1, 2, is_proven=False), "the engine has proved itself"
    suspects.life_over()
    assert suspects.died(0, 0) is F, "as if it were the first"
