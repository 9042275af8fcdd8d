"""Looks at one engine's heartbeat while it has work, and only then: an idle engine costs the keeper no timer.

Runs on the keeper's event loop. The shim rings when work begins (`Leader.begin_step`, `Leader.tell_outstanding`); from
then on a timer looks, until a look finds no work. Who asks for the status wakes it too, for plugins that do not ring.
What a look means is `rekindle.lifecycle.hang`'s to say. An engine that is stopped as a whole while it is idle cannot
ring: then the stream proxy tells that its server leaves requests without an answer, which counts as work.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from rekindle_plugins.contract.journal import JournalReader

from rekindle.lifecycle.hang import HangLimits, Watched, hung_s, limit_s, look

log = logging.getLogger("rekindle.engine")


class HangWatch:
    """The watch over one attached engine. `stop` before the journal is closed."""

    def __init__(self, instance: str, journal: JournalReader, floor_s: float) -> None:
        """`floor_s`: see `HangLimits`; 0 switches the watch off."""
        self._instance = instance
        self._journal = journal
        self._limits = HangLimits(floor_s)
        self._watched = Watched()
        self._was_hung = False
        self._is_silent = False
        self._is_on = floor_s > 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def hung_s(self) -> float | None:
        """For how long the engine has been hanging, as of the last look; None where it does not hang."""
        return hung_s(self._watched, self._limits)

    @property
    def text(self) -> str:
        """One sentence for people about a hang; empty where there is none."""
        stalled_s, beat = self.hung_s, self._watched.beat
        if stalled_s is None or beat is None:
            return ""
        allowed_s = limit_s(self._watched, self._limits)
        under_way = max(0, beat.steps_started - beat.steps_finished)
        return (
            f"it hangs: no step for {stalled_s:.1f} s (limit {allowed_s:.1f} s), "
            f"{beat.outstanding} requests outstanding, {under_way} steps under way"
            f"{', and its server does not answer' if self._is_silent else ''}"
        )

    def wake(self) -> None:
        """There may be work. Cheap when the watch is on its way already."""
        if self._is_on and self._timer is None:
            self._look()

    def told_silent(self, is_silent: bool) -> None:
        """Whether its server leaves requests, and questions for its health, without an answer."""
        self._is_silent = is_silent
        self.wake()

    def stop(self) -> None:
        """The engine is gone: nothing hangs any more."""
        self._is_on = False
        self._watched = Watched()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        beat = self._journal.heartbeat()
        if self._is_silent and not beat.has_work:
            beat = replace(beat, outstanding=1)
        self._watched = look(self._watched, self._loop.time(), beat, self._limits)
        if self._watched.has_work:
            self._timer = self._loop.call_later(self._limits.look_every_s, self._look)
        is_hung = self.hung_s is not None
        if is_hung and not self._was_hung:
            log.warning("event=engine_hung instance=%s text=%r", self._instance, self.text)
        elif self._was_hung and not is_hung:
            log.info("event=engine_goes_on instance=%s", self._instance)
        self._was_hung = is_hung
