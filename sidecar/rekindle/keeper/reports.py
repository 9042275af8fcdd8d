"""Recovery reports: one per death and recovery, kept in memory (the last ones) and written beside the sockets.

died → released            the engine that is gone; the next one may come between the two
attached → asked → restored   the next one
"""

from __future__ import annotations

import contextlib
import logging
import time
from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rekindle.lifecycle.status import RecoveryReport
from rekindle.lifecycle.totals import PHASE_BOUNDS_S, PHASES, PhaseTimes
from rekindle.recovery_files import KEPT, read_reports, write_report

log = logging.getLogger("rekindle.recovery")


@dataclass(frozen=True)
class _Recovery:
    """One that is not over: which report, and its zero on the monotonic clock."""

    number: int
    began_at: float
    has_death: bool


class Reports:
    """Builds reports from what the engines' lives tell. `directory` gets their files, and numbers go on from those."""

    def __init__(self, directory: Path) -> None:
        self.finished = 0
        self._directory = directory
        self._kept: dict[int, RecoveryReport] = {}
        """By number, the newest last."""
        self._open: dict[str, _Recovery] = {}
        """By identity, until the next engine has restored."""
        self._number = max((report.number for report in read_reports(directory)), default=0)
        self._counts = {phase: [0] * (len(PHASE_BOUNDS_S) + 1) for phase in PHASES}
        self._sums = dict.fromkeys(PHASES, 0.0)

    @property
    def last(self) -> RecoveryReport | None:
        return next(reversed(self.all()), None)

    def all(self) -> list[RecoveryReport]:
        """The oldest first. Without those of engines that are still being salvaged: their figures are not known yet."""
        return [r for r in self._kept.values() if r.died_instance is None or r.release_s is not None]

    @property
    def phases(self) -> dict[str, PhaseTimes]:
        """How long everything took, of all recoveries together."""
        return {phase: PhaseTimes(tuple(self._counts[phase]), self._sums[phase]) for phase in PHASES}

    def died(self, identity: str, instance: str, reason: str, noticed_at: float, detect_s: float | None) -> int:
        """An engine's death was noticed. Returns the report's number. Writes no file: its pages are to be salvaged."""
        report = self._begin(identity, noticed_at, has_death=True)
        self._change(report.number, died_instance=instance, reason=reason, detect_s=detect_s)
        return report.number

    def released(self, number: int, **figures: float | int) -> None:
        """Nothing of ours holds the dead engine's memory any more. `figures` are fields of RecoveryReport."""
        self._change(number, **figures)
        self._write(number)

    def attached(
        self, identity: str, instance: str, stored_pages: int, mismatches: tuple[str, ...], suspicion: str = ""
    ) -> bool:
        """The next engine is there: True where one had died. Without that (the sidecar restarted too) a report begins
        here."""
        recovery = self._open.get(identity)
        if recovery is None:
            if not stored_pages and not mismatches:
                return False
            self._begin(identity, time.monotonic(), has_death=False)
            recovery = self._open[identity]
        down_s = time.monotonic() - recovery.began_at if recovery.has_death else None
        self._change(
            recovery.number, started_instance=instance, mismatches=mismatches, suspicion=suspicion, down_s=down_s
        )
        self._write(recovery.number)
        return recovery.has_death

    def asked(self, identity: str) -> None:
        """The next engine asks for pages: from here on it is restored."""
        recovery = self._open.get(identity)
        if recovery is not None:
            self._change(recovery.number, asked_s=time.monotonic() - recovery.began_at)

    def restored(self, identity: str, pages: int, tokens: int, rejected: dict[str, int], seconds: float) -> None:
        """The restore is over: the report is complete."""
        recovery = self._open.pop(identity, None)
        if recovery is None:
            return
        self.finished += 1
        self._change(
            recovery.number,
            pages_restored=pages,
            tokens_restored=tokens,
            pages_rejected=rejected,
            restore_s=seconds,
            finished_unix=time.time(),
            warm_s=time.monotonic() - recovery.began_at,
        )
        self._write(recovery.number)
        log.info(
            "event=recovered report=%d pages=%d tokens=%d rejected=%d seconds=%.3f",
            recovery.number,
            pages,
            tokens,
            sum(rejected.values()),
            seconds,
        )

    def _begin(self, identity: str, at: float, has_death: bool) -> RecoveryReport:
        self._number += 1
        report = RecoveryReport(self._number, identity, began_unix=time.time() - (time.monotonic() - at))
        self._kept[report.number] = report
        self._open.pop(identity, None)
        self._open[identity] = _Recovery(report.number, at, has_death)
        for bounded in (self._kept, self._open):
            if len(bounded) > KEPT:
                bounded.pop(next(iter(bounded)))  # type: ignore[call-overload]
        return report

    def _change(self, number: int, **figures: Any) -> None:
        if number not in self._kept:
            return
        self._kept[number] = replace(self._kept[number], **figures)
        for phase in PHASES:
            seconds = figures.get(f"{phase}_s")
            if seconds is not None:
                self._counts[phase][bisect_left(PHASE_BOUNDS_S, seconds)] += 1
                self._sums[phase] += seconds

    def _write(self, number: int) -> None:
        """Never fatal: a full run directory must not stop a recovery."""
        report = self._kept.get(number)
        if report is not None:
            with contextlib.suppress(OSError):
                write_report(self._directory, report)
