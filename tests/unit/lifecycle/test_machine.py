"""The state machine of an engine's life: the whole table, every path, and every interruption."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle.lifecycle.machine import TABLE, Action, Event, State, TransitionError, step

END_OF_LIFE = [Event.LOST, Event.SALVAGE_BEGUN, Event.SALVAGE_ENDED]


def allowed(state: State) -> list[Event]:
    return [event for event in Event if (state, event) in TABLE]


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_is_in_the_table_or_raises(state: State, event: Event) -> None:
    if (state, event) in TABLE:
        assert step(state, event) == TABLE[state, event]
    else:
        with pytest.raises(TransitionError, match=f"{event.value}: it cannot happen while {state.value}"):
            step(state, event)


def test_every_state_is_reached_and_can_be_left() -> None:
    reached = {State.WAITING}
    while True:
        more = reached | {step(state, event)[0] for state in reached for event in allowed(state)}
        if more == reached:
            break
        reached = more
    assert reached == set(State)
    assert all(any(step(state, event)[0] is not state for event in allowed(state)) for state in State)


@pytest.mark.parametrize("state", State)
def test_losing_the_engine_is_possible_in_every_state(state: State) -> None:
    assert Event.LOST in allowed(state)


def test_copiers_may_exist_only_between_start_and_release_on_every_path() -> None:
    """Explores (state, are there copiers) as far as it goes: it is a finite set."""
    reached = {(State.WAITING, False)}
    to_visit = list(reached)
    while to_visit:
        state, has_copiers = to_visit.pop()
        for event in allowed(state):
            after, actions = step(state, event)
            has_now = has_copiers
            for action in actions:
                if action is Action.START_COPIERS:
                    assert not has_now, f"{event} in {state} starts copiers twice"
                    has_now = True
                elif action is Action.SALVAGE:
                    assert has_now, f"{event} in {state} salvages without copiers"
                elif action is Action.RELEASE:
                    has_now = False
            assert not (after is State.WAITING and has_now), f"{event} in {state} leaves copiers behind"
            assert after is State.WAITING or has_now
            if (after, has_now) not in reached:
                reached.add((after, has_now))
                to_visit.append((after, has_now))
    assert len(reached) == len(State)


def replay(events: list[Event]) -> tuple[State, list[Action]]:
    state, done = State.WAITING, []
    for event in events:
        state, actions = step(state, event)
        done.extend(actions)
    return state, done


def paths_alive(length: int) -> list[list[Event]]:
    """Every sequence of events of an engine that attaches and lives."""
    found: list[list[Event]] = [[]]
    last = [[Event.ATTACHED]]
    for _ in range(length):
        found.extend(last)
        last = [[*p, e] for p in last for e in allowed(replay(p)[0]) if e is not Event.LOST]
    return found


@pytest.mark.parametrize("repeats", [1, 2])
def test_an_engine_lost_at_any_point_is_released_once_and_waits(repeats: int) -> None:
    for alive in paths_alive(5):
        end = [Event.LOST] * repeats if not alive else [Event.LOST] * repeats + END_OF_LIFE[1:]
        state, actions = replay([*alive, *end])
        assert state is State.WAITING
        if alive:
            assert actions.count(Action.RELEASE) == 1
            assert actions.count(Action.SALVAGE) == 1
            assert actions.count(Action.REPORT_DEATH) == 1
            assert actions.count(Action.REPORT_RELEASE) == 1
            assert actions.index(Action.START_COPIERS) < actions.index(Action.SALVAGE) < actions.index(Action.RELEASE)
        else:
            assert set(actions) == {Action.RELEASE}, "nothing was started, and what was handed over is let go of"


def test_a_connection_that_ends_during_the_salvage_changes_nothing() -> None:
    for where in range(1, 3):
        end = END_OF_LIFE[:where] + [Event.LOST] * 3 + END_OF_LIFE[where:]
        assert replay([Event.ATTACHED, Event.COMMITTED, *end]) == replay(
            [Event.ATTACHED, Event.COMMITTED, *END_OF_LIFE]
        )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32))
def test_random_lives_start_and_release_alternately(seed: int) -> None:
    print(f"seed {seed}")
    source = random.Random(seed)
    state, has_copiers = State.WAITING, False
    for _ in range(200):
        state, actions = step(state, source.choice(allowed(state)))
        for action in actions:
            if action is Action.START_COPIERS:
                assert not has_copiers
                has_copiers = True
            elif action is Action.RELEASE:
                has_copiers = False
        assert has_copiers == (state is not State.WAITING)
