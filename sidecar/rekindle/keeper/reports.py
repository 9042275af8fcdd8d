"""Recovery reports: one per death and recovery, kept in memory (the last ones) and written beside the sockets."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from rekindle.lifecycle.status import RecoveryReport

log = logging.getLogger("rekindle.recovery")

KEPT = 32


@dataclass
class Reports:
    """Builds reports from what the engines' lives tell. `directory` gets `recovery-<number>.json` files."""

    directory: Path
    _kept: deque[RecoveryReport] = field(default_factory=lambda: deque(maxlen=KEPT))
    _open: dict[str, tuple[RecoveryReport, float]] = field(default_factory=dict)
    """By identity: the report of a death (and when it was noticed, monotonic) until the next engine has restored."""
    _number: int = 0

    @property
    def last(self) -> RecoveryReport | None:
        return self._kept[-1] if self._kept else None

    def all(self) -> list[RecoveryReport]:
        return list(self._kept)

    def died(self, identity: str, instance: str, reason: str, noticed: float, **figures: float | int) -> None:
        """An engine died and was released. `figures` are fields of RecoveryReport."""
        self._number += 1
        report = RecoveryReport(number=self._number, identity=identity, died_instance=instance, reason=reason)
        report = replace(report, **figures)  # type: ignore[arg-type]
        self._open[identity] = (report, noticed)
        self._keep(report)

    def attached(
        self, identity: str, instance: str, stored_pages: int, mismatches: tuple[str, ...], suspicion: str = ""
    ) -> None:
        """The next engine is there. Without a death before (the sidecar restarted too) a new report begins."""
        report, noticed = self._open.get(identity, (None, None))
        if report is None:
            if not stored_pages and not mismatches:
                return
            self._number += 1
            report = RecoveryReport(number=self._number, identity=identity)
        report = replace(
            report,
            started_instance=instance,
            mismatches=mismatches,
            suspicion=suspicion,
            down_s=None if noticed is None else time.monotonic() - noticed,
        )
        self._open[identity] = (report, noticed if noticed is not None else time.monotonic())
        self._keep(report)

    def restored(self, identity: str, pages: int, tokens: int, rejected: dict[str, int], seconds: float) -> None:
        """The restore is over: the report is complete."""
        report, _ = self._open.pop(identity, (None, None))
        if report is None:
            return
        report = replace(
            report,
            pages_restored=pages,
            tokens_restored=tokens,
            pages_rejected=rejected,
            restore_s=seconds,
            finished_unix=time.time(),
        )
        self._keep(report)
        log.info(
            "event=recovered report=%d pages=%d tokens=%d rejected=%d seconds=%.3f",
            report.number,
            pages,
            tokens,
            sum(rejected.values()),
            seconds,
        )

    def _keep(self, report: RecoveryReport) -> None:
        if self._kept and self._kept[-1].number == report.number:
            self._kept[-1] = report
        elif any(kept.number == report.number for kept in self._kept):
            self._kept = deque((report if k.number == report.number else k for k in self._kept), maxlen=KEPT)
        else:
            self._kept.append(report)
        self._write(report)

    def _write(self, report: RecoveryReport) -> None:
        """Atomically, and never fatal: a full run directory must not stop a recovery."""
        path = self.directory / f"recovery-{report.number % KEPT}.json"
        with contextlib.suppress(OSError):
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(report.to_json(), indent=2) + "\n")
            os.replace(temporary, path)
