"""Whether an engine hangs: it has work, and its heartbeat stands still. Pure: no I/O, no clock, no logging.

Somebody looks now and then (`rekindle.keeper.hang_watch`) and hands in what was seen and when:

    look ──▶ no work                     nothing to judge
         ──▶ a step began or ended       a new stretch begins; the one that ended tells how slow this engine can be
         ──▶ neither                     the time since the last look counts as stalled, but never more than a look is
                                         due after: what lies beyond that was our own absence (we were stopped, or
                                         starved, perhaps together with the engine), and is not held against it

Stalled for longer than the limit means hung. The limit is the floor that the operator set, or a multiple of the slowest
step of late, whichever is more; and a multiple of that while the engine warms up: the first steps compile, and are not
taken for its usual pace either. A step that comes after all ends the hang, and the engine has more time from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rekindle_plugins.contract.journal import Heartbeat


@dataclass(frozen=True)
class HangLimits:
    """`floor_s`: the least time without a step that counts as a hang. The rest is measured against it."""

    floor_s: float
    slow_factor: float = 4.0
    """How many times the slowest step of late a step may take."""
    half_life_s: float = 600.0
    """After so much working time a slow step counts half."""
    warm_up_steps: int = 16
    warm_up_factor: float = 10.0

    @property
    def look_every_s(self) -> float:
        """When the next look is due while there is work. Seldom enough to cost nothing, ten times within the floor."""
        return min(self.floor_s / 10, 3.0)

    @property
    def longest_gap_s(self) -> float:
        """The most that the time between two looks can count."""
        return 2 * self.look_every_s


@dataclass(frozen=True)
class Watched:
    """What is known of one engine. Begin with `Watched()`."""

    beat: Heartbeat | None = None
    looked_s: float = 0.0
    stalled_s: float = 0.0
    """Time seen to pass without a step while there was work."""
    slowest_s: float = 0.0
    """The slowest step of late. An upper estimate, since a step ends somewhere between two looks; fades with every step
    that follows, by the time that it took."""

    @property
    def has_work(self) -> bool:
        return self.beat is not None and self.beat.has_work


def look(before: Watched, now_s: float, beat: Heartbeat, limits: HangLimits) -> Watched:
    """What is known after a look at `now_s`, on any clock that does not go back."""
    seen = replace(before, beat=beat, looked_s=now_s, stalled_s=0.0)
    if before.beat is None or not before.has_work:
        return seen
    gap_s = min(max(now_s - before.looked_s, 0.0), limits.longest_gap_s)
    stalled_s = before.stalled_s + gap_s
    if _has_moved(before.beat, beat):
        faded_s = before.slowest_s * 0.5 ** (stalled_s / limits.half_life_s)
        is_usual = before.beat.steps_finished >= limits.warm_up_steps
        return replace(seen, slowest_s=max(faded_s, stalled_s) if is_usual else faded_s)
    return replace(seen, stalled_s=stalled_s) if beat.has_work else seen


def limit_s(watched: Watched, limits: HangLimits) -> float:
    """How long this engine may stand still with work."""
    usual_s = max(limits.floor_s, limits.slow_factor * watched.slowest_s)
    is_warm = watched.beat is not None and watched.beat.steps_finished >= limits.warm_up_steps
    return usual_s if is_warm else usual_s * limits.warm_up_factor


def hung_s(watched: Watched, limits: HangLimits) -> float | None:
    """For how long it has been hanging, from the last sign of life on; None where it does not hang."""
    return watched.stalled_s if watched.stalled_s > limit_s(watched, limits) else None


def _has_moved(before: Heartbeat, beat: Heartbeat) -> bool:
    """A step began or ended. What else moves (requests that come and go) is the work of other threads."""
    return (before.steps_started, before.steps_finished) != (beat.steps_started, beat.steps_finished)
