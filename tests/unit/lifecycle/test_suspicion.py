"""Who is suspected, and what the next start may have: the whole table."""

from __future__ import annotations

import pytest
from rekindle.lifecycle.suspicion import HEALTHY_STEPS, Life, Record, Trust, after_death

NONE = Record()
ONE, TWO, THREE = Record(1, 50), Record(2, 50), Record(3, 50)
SUSPICIOUS = Life(was_given_pages=True, is_busy=True, steps_finished=HEALTHY_STEPS - 1)
IN_THE_RESTORE = Life(was_given_pages=True, is_busy=True, steps_finished=0)
IDLE = Life(was_given_pages=True, is_busy=False, steps_finished=1)
GIVEN_NOTHING = Life(was_given_pages=False, is_busy=True, steps_finished=1)
HEALTHY = Life(was_given_pages=True, is_busy=True, steps_finished=HEALTHY_STEPS)


@pytest.mark.parametrize(
    ("record", "life", "after"),
    [
        (NONE, SUSPICIOUS, Record(1, 99)),
        (NONE, IN_THE_RESTORE, Record(1, 99)),
        (NONE, IDLE, NONE),
        (NONE, GIVEN_NOTHING, NONE),
        (NONE, HEALTHY, NONE),
        (ONE, SUSPICIOUS, TWO),
        (ONE, IN_THE_RESTORE, TWO),
        (ONE, IDLE, ONE),
        (ONE, GIVEN_NOTHING, ONE),
        (ONE, HEALTHY, NONE),
        (TWO, SUSPICIOUS, THREE),
        (TWO, IDLE, TWO),
        (TWO, GIVEN_NOTHING, TWO),
        (TWO, HEALTHY, NONE),
        (THREE, SUSPICIOUS, Record(4, 50)),
        (THREE, GIVEN_NOTHING, THREE),
        (THREE, HEALTHY, NONE),
    ],
)
def test_what_a_death_makes_of_the_record(record: Record, life: Life, after: Record) -> None:
    assert after_death(record, life, began_tick=99) == after


@pytest.mark.parametrize(
    ("record", "trust", "words"),
    [
        (NONE, Trust.EVERYTHING, ""),
        (ONE, Trust.EVERYTHING, "1 in a row died right after a restore: its pages are restored once more"),
        (TWO, Trust.NO_SUSPECTS, "2 in a row died right after a restore: the pages that were restored"),
        (THREE, Trust.NOTHING, "3 in a row died right after a restore: it starts cold"),
        (Record(9, 50), Trust.NOTHING, "9 in a row"),
    ],
)
def test_what_the_next_start_may_have(record: Record, trust: Trust, words: str) -> None:
    assert record.trust is trust
    assert record.text().startswith(words)
    assert bool(record.text()) == bool(words)


def test_no_row_of_crashes_is_longer_than_three_of_our_making() -> None:
    """An engine that dies of whatever is restored to it: what it dies of next is not ours."""
    record, crashes = NONE, 0
    while record.trust is not Trust.NOTHING:
        record = after_death(record, IN_THE_RESTORE, crashes)
        crashes += 1
    assert crashes == 3
    assert after_death(record, GIVEN_NOTHING, 0).trust is Trust.NOTHING
