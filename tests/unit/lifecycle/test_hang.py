"""The judge of hangs: never a false alarm, always an alarm, for any sequence of steps and of looks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle.lifecycle.hang import HangLimits, Watched, hung_s, limit_s, look
from rekindle_plugins.contract.journal import Heartbeat

LIMITS = HangLimits(30.0)
IDLE = Heartbeat(100, 100, 0, 0, 0, 0)
RUNS = replace(IDLE, steps_started=101, outstanding=1)
WAITS = replace(IDLE, outstanding=1)


@dataclass
class Scene:
    """An engine and who looks at it, on a clock of the test's own."""

    limits: HangLimits = LIMITS
    now_s: float = 1000.0
    watched: Watched = field(default_factory=Watched)

    def look(self, beat: Heartbeat, after_s: float = 0.0) -> float | None:
        self.now_s += after_s
        self.watched = look(self.watched, self.now_s, beat, self.limits)
        return hung_s(self.watched, self.limits)

    def stand_still(self, beat: Heartbeat, seconds: float) -> bool:
        """Looks as often as is due; whether it ever counted as a hang."""
        until_s = self.now_s + seconds
        was_hung = False
        while self.now_s < until_s:
            was_hung |= self.look(beat, self.limits.look_every_s) is not None
        return was_hung


def test_an_idle_engine_never_hangs() -> None:
    assert not Scene().stand_still(IDLE, 3600)


@pytest.mark.parametrize("beat", [RUNS, WAITS, replace(IDLE, steps_started=101)])
def test_an_engine_with_work_that_stands_still_hangs_after_the_floor(beat: Heartbeat) -> None:
    scene = Scene()
    assert not scene.stand_still(beat, 27)
    assert scene.stand_still(beat, 9)
    assert scene.watched.stalled_s == pytest.approx(33, abs=3.1)


def test_work_that_comes_to_an_idle_engine_counts_from_then_on() -> None:
    scene = Scene()
    scene.look(IDLE)
    assert scene.look(WAITS, 1e6) is None
    assert not scene.stand_still(WAITS, 27)


def test_a_step_ends_the_hang_and_buys_time() -> None:
    scene = Scene()
    assert scene.stand_still(RUNS, 60)
    after = replace(RUNS, steps_started=102, steps_finished=101)
    assert scene.look(after, 1.0) is None
    assert limit_s(scene.watched, LIMITS) == pytest.approx(4 * 61, rel=0.1)
    assert not scene.stand_still(after, 200)
    assert scene.stand_still(after, 60)


def test_what_was_slow_once_is_forgotten_in_time() -> None:
    scene = Scene()
    scene.stand_still(RUNS, 60)
    beat = RUNS
    for _ in range(2000):
        beat = replace(beat, steps_started=beat.steps_started + 1, steps_finished=beat.steps_finished + 1)
        scene.look(beat, 3.0)
    assert limit_s(scene.watched, LIMITS) == LIMITS.floor_s


def test_the_first_steps_may_compile_and_teach_nothing() -> None:
    scene = Scene()
    beat = Heartbeat(1, 0, 0, 1, 0, 0)
    assert not scene.stand_still(beat, 290)
    assert scene.watched.slowest_s == 0
    scene.look(replace(beat, steps_started=2, steps_finished=1), 1.0)
    assert scene.watched.slowest_s == 0
    assert scene.stand_still(replace(beat, steps_started=2, steps_finished=1), 310)


def test_requests_that_come_while_it_stands_still_are_no_sign_of_life() -> None:
    scene = Scene()
    assert any(scene.look(replace(RUNS, outstanding=1 + n), 3.0) is not None for n in range(15))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    gaps=st.lists(st.floats(0.0, 1e7), min_size=1, max_size=5),
)
def test_our_own_absence_is_not_held_against_the_engine(gaps: list[float]) -> None:
    """However late they are, five looks are not enough: that is what the floor allows for."""
    scene = Scene()
    scene.look(RUNS)
    for gap_s in gaps:
        assert scene.look(RUNS, gap_s) is None
    assert scene.watched.stalled_s <= LIMITS.floor_s


@st.composite
def step_times(draw: st.DrawFn) -> list[float]:
    """Durations of steps, each within the bound that the ones before it set."""
    times: list[float] = []
    for share in draw(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30)):
        last_s = times[-1] if times else 0.0
        bound_s = max(LIMITS.floor_s, 0.9 * LIMITS.slow_factor * (last_s - LIMITS.look_every_s))
        times.append(min(share * bound_s, 2000.0))
    return times


@settings(max_examples=100, deadline=None, derandomize=True)
@given(times=step_times(), offset=st.floats(0.0, 1.0), pauses=st.lists(st.floats(0.0, 20.0), min_size=30, max_size=30))
def test_there_is_no_false_alarm_for_steps_within_the_bound(
    times: list[float], offset: float, pauses: list[float]
) -> None:
    """Steps with idle pauses between them, seen by somebody whose looks fall anywhere."""
    scene = Scene()
    events: list[tuple[float, Heartbeat]] = [(0.0, IDLE)]
    at_s, beat = 0.0, IDLE
    for duration_s, pause_s in zip(times, pauses, strict=False):
        beat = replace(beat, steps_started=beat.steps_started + 1, outstanding=1)
        events.append((at_s, beat))
        at_s += duration_s
        beat = replace(beat, steps_finished=beat.steps_finished + 1, outstanding=0)
        events.append((at_s, beat))
        at_s += pause_s
    look_s, position = offset * LIMITS.look_every_s, 0
    while look_s < at_s:
        while position + 1 < len(events) and events[position + 1][0] <= look_s:
            position += 1
        scene.now_s = look_s
        assert scene.look(events[position][1]) is None
        look_s += LIMITS.look_every_s


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    history=st.lists(st.tuples(st.floats(0.0, 50.0), st.booleans(), st.integers(0, 3)), max_size=40),
    floor_s=st.floats(0.1, 600.0),
)
def test_an_engine_that_stopped_is_always_found(history: list[tuple[float, bool, int]], floor_s: float) -> None:
    scene = Scene(HangLimits(floor_s))
    beat = IDLE
    for gap_s, moves, outstanding in history:
        if moves:
            beat = replace(beat, steps_started=beat.steps_started + 1, steps_finished=beat.steps_finished + 1)
        beat = replace(beat, outstanding=outstanding)
        scene.look(beat, gap_s)
    stopped = replace(beat, steps_started=beat.steps_started + 1, outstanding=1)
    scene.look(stopped)
    within_s = limit_s(scene.watched, scene.limits) + 2 * scene.limits.look_every_s
    assert scene.stand_still(stopped, within_s)
    assert scene.look(stopped) is not None


@pytest.mark.parametrize("beat", [replace(RUNS, steps_started=0), replace(RUNS, steps_finished=(1 << 64) - 1)])
def test_a_heartbeat_that_cannot_be_harms_nobody(beat: Heartbeat) -> None:
    scene = Scene()
    scene.look(RUNS)
    assert scene.look(beat, 3.0) is None
