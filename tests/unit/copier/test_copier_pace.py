"""The cap on checkpointing, against a clock that the test has."""

from __future__ import annotations

from rekindle.copier.pace import BURST_S, Pace


def test_bytes_go_as_fast_as_the_cap_on_average() -> None:
    pace, now = Pace(1000), 100.0
    begun = now
    for _ in range(50):
        now += pace.wait_s(now)
        pace.spend(100, now)
    assert now - begun >= 50 * 0.1 - 0.1 - BURST_S - 1e-6
    assert now - begun <= 50 * 0.1


def test_a_pause_is_not_made_up_for() -> None:
    pace = Pace(1000)
    pace.spend(100, 0.0)
    pace.spend(1000, 1000.0)
    assert abs(pace.wait_s(1000.0) - (1.0 - BURST_S)) < 1e-6


def test_no_cap_and_a_lifted_cap_wait_for_nothing() -> None:
    assert Pace(0).wait_s(0.0) == 0.0
    assert not Pace(0).is_capped
    pace = Pace(1)
    pace.spend(1 << 30, 0.0)
    assert pace.wait_s(0.0) > 0
    pace.lift()
    assert pace.wait_s(0.0) == 0.0
