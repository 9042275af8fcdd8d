"""Whether restored pages are what kills the engines, and what the next start may have. Pure: no I/O, no clock.

A start dies suspiciously when pages were put into it, and it died while they were, or in the middle of its first steps
of work. Starts of one identity that do so in a row, and what the next one gets:

    0, 1   everything           once is no pattern: engines are killed at any instant, and that is what we are for
    2      no suspects          the suspects: pages that were restored to those starts, or saved from them
    3 …    nothing              an empty plan, and a closed presence filter

A start that does so much work lives: the row is over. Where it did without the suspects, they are taken for guilty, and
dropped from the store: what the engine has meanwhile computed anew takes their place. A start that dies idle, or before
it was given anything, tells nothing either way.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

HEALTHY_STEPS = 2
"""Finished steps of work after which a start is healthy. Pages that kill do so when they are used first, and requests
that were cut off use them first; more steps would find hardly more, and suspect more deaths that others cause."""


class Trust(enum.Enum):
    """What a start may be given of what is stored."""

    EVERYTHING = "everything"
    NO_SUSPECTS = "no suspects"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Record:
    """The row of suspicious deaths under one identity. `since_tick`: the store's clock when the first of them began;
    a page that was used later is a suspect."""

    deaths: int = 0
    since_tick: int = 0

    @property
    def trust(self) -> Trust:
        if self.deaths < 2:
            return Trust.EVERYTHING
        return Trust.NO_SUSPECTS if self.deaths == 2 else Trust.NOTHING

    def text(self) -> str:
        """For the recovery report; empty where nobody is suspected."""
        if not self.deaths:
            return ""
        consequence = {
            Trust.EVERYTHING: "its pages are restored once more",
            Trust.NO_SUSPECTS: "the pages that were restored to them are withheld",
            Trust.NOTHING: "it starts cold",
        }[self.trust]
        return f"{self.deaths} in a row died right after a restore: {consequence}"


@dataclass(frozen=True)
class Life:
    """What counts of a start: at its end, or in the middle of it."""

    was_given_pages: bool
    """A page was put into it, eagerly or lazily, or a plan that was not empty was sent."""
    is_busy: bool
    """It is being restored, a step is under way, or requests are outstanding."""
    steps_finished: int

    @property
    def is_healthy(self) -> bool:
        return self.steps_finished >= HEALTHY_STEPS


def after_death(record: Record, life: Life, began_tick: int) -> Record:
    """The record after a start that began at `began_tick` of the store's clock has died."""
    if life.is_healthy:
        return Record()
    if not (life.was_given_pages and life.is_busy):
        return record
    return Record(record.deaths + 1, record.since_tick if record.deaths else began_tick)
