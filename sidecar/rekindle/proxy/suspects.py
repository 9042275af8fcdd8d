"""Which request kills engines? Pure: no clock, no I/O. The server asks before every attempt and tells what came of it.

A request is at a place: so many tokens of its answer the engine was given or has generated, whether its client had
them before or not. A death that it was in flight at burdens it with points. They are forgotten when it has got on by
``PROGRESS_TOKENS`` since it was last sent, or, where nobody hears of its tokens, when its engine has lived with it for
a while; unless the engine then dies when it is at the very place where it was at the death before.

    a death                                                    points
    the first one, or one before which it had not got on         2
    one before which it had got on by some tokens                1

    points      the request is      and is sent again
    0 … 3       free                at once, with all others
    4, 5        a suspect           when the engine has proved itself, and no other suspect is in flight
    6           convicted           never

The first death burdens everybody. At the second, whoever was in flight both times and stood still is a suspect, and
from then on suspects go one at a time: the third death of a suspect is its own. Those beside it have got on meanwhile,
or become suspects in their turn and are cleared by getting on. So the guilty one costs three engines and one error.

Engines also die for reasons of their own: three times in a row, and quickly. What tells that from poison:

- A life proves itself before a suspect is sent to it: somebody else has got on in it, or it has been there for a while.
  A life that ends with no suspect in flight clears all of them: engines die without them.
- Poison strikes at the same place again. Who got on by even one token since it was last sent is burdened by half.

A request that gets on, and kills an engine each time at another place, ends by the limit on attempts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rekindle.proxy.limits import PROGRESS_TOKENS

STILL_POINTS, MOVED_POINTS = 2, 1
SUSPECT_POINTS, CONVICTED_POINTS = 4, 6


class Verdict(enum.Enum):
    """What a request is after a death."""

    FREE = "free"
    SUSPECT = "suspect"
    CONVICTED = "convicted"


@dataclass
class _Record:
    points: int = 0
    before: int = 0
    """Its points when it was last sent."""
    start: int = 0
    """The place from which the present attempt began."""
    died_at: int = -1
    """The place of the last death."""
    life: int = 0
    """Which engine it was sent to last."""
    in_flight: bool = False

    @property
    def is_suspect(self) -> bool:
        return self.points >= SUSPECT_POINTS


class Suspects:
    """Requests by any id that is theirs alone; lives of the engine by their generation."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._proven_life = -1

    def may_go(self, request: int, life: int, is_proven: bool) -> bool:
        """Whether an attempt may begin now. ``is_proven``: that life has been there for a while."""
        record = self._records.get(request)
        if record is None or not record.is_suspect:
            return True
        if not is_proven and life != self._proven_life:
            return False
        return not any(other.in_flight and other.is_suspect for id_, other in self._records.items() if id_ != request)

    def went(self, request: int, place: int, life: int) -> None:
        """An attempt begins, at this place."""
        record = self._records.setdefault(request, _Record())
        record.in_flight = True
        record.start = place
        record.before = record.points
        record.life = life

    def got_on(self, request: int, place: int) -> bool:
        """It is there by now. Whether another suspect may go now that could not before."""
        record = self._records[request]
        return place - record.start >= PROGRESS_TOKENS and self._clear(record)

    def outlived(self, request: int) -> bool:
        """Its engine has lived with it for a while, and nobody hears how far it is. Returns what ``got_on`` does."""
        return self._clear(self._records[request])

    def _clear(self, record: _Record) -> bool:
        was_suspect, record.points = record.is_suspect, 0
        is_news = record.life > self._proven_life
        self._proven_life = max(self._proven_life, record.life)
        return was_suspect or is_news

    def stopped(self, request: int) -> None:
        """The attempt is over, and tells nothing about the request."""
        self._records[request].in_flight = False

    def life_over(self) -> None:
        """A life of the engine is at its end: told once, before ``died`` is of those that were in flight."""
        suspects = [record for record in self._records.values() if record.is_suspect]
        if not any(record.in_flight for record in suspects):
            for record in suspects:
                record.points = 0

    def died(self, request: int, place: int) -> Verdict:
        """The engine died under the attempt that ``went`` began, when it was there."""
        record = self._records[request]
        self.got_on(request, place)
        record.in_flight = False
        stood_still = place == record.start or not record.points
        if place - record.start >= PROGRESS_TOKENS and place == record.died_at:
            record.points = record.before
        record.points += STILL_POINTS if stood_still else MOVED_POINTS
        record.died_at = place
        if record.points >= CONVICTED_POINTS:
            return Verdict.CONVICTED
        return Verdict.SUSPECT if record.is_suspect else Verdict.FREE

    def over(self, request: int) -> None:
        """It ended, whichever way."""
        self._records.pop(request, None)

    @property
    def count(self) -> int:
        """Suspects that have not been cleared."""
        return sum(record.is_suspect for record in self._records.values())
