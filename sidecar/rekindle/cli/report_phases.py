"""A recovery report as phases on one axis: what the page draws and the table lists. Pure.

Seconds count from the report's begin: the noticing of the death or, without one, the engine's attachment.
"""

from __future__ import annotations

from dataclasses import dataclass

from rekindle.cli.output import duration
from rekindle.lifecycle.status import RecoveryReport


@dataclass(frozen=True)
class Phase:
    """One bar. ``end_s`` is None for one that is not over."""

    kind: str
    """A word for the style: detect, salvage, release, down, attach, restore."""
    name: str
    text: str
    start_s: float
    end_s: float | None

    @property
    def took_s(self) -> float | None:
        return None if self.end_s is None else max(0.0, self.end_s - self.start_s)


def phases(report: RecoveryReport) -> list[Phase]:
    """In the order of their begins. What has not begun is not there."""
    found: list[Phase] = []
    died = report.died_instance is not None
    if report.detect_s is not None:
        text = "From the engine's last step to noticing its death: at most so long did that take."
        found.append(Phase("detect", "unnoticed", text, -report.detect_s, 0.0))
    if died:
        text = "Committed pages that were not copied yet are read out of the dead engine's memory."
        found.append(Phase("salvage", "salvage", text, 0.0, report.salvage_s))
    if died and report.salvage_s is not None:
        text = "Until no process of the sidecar holds the dead engine's memory."
        found.append(Phase("release", "release", text, report.salvage_s, report.release_s))
    if died:
        text = "Until the next engine attached: its own start."
        found.append(Phase("down", "no engine", text, 0.0, report.down_s))
    attached_s = report.down_s if died else 0.0
    if attached_s is not None and report.started_instance is not None:
        text = "The next engine is attached, and has not asked for pages yet."
        found.append(Phase("attach", "attached", text, attached_s, report.asked_s))
    if report.asked_s is not None:
        text = "Pages are checked, filled into the engine's memory and registered in its own prefix cache."
        found.append(Phase("restore", "restore", text, report.asked_s, report.warm_s))
    return found


def took(seconds: float | None, otherwise: str) -> str:
    """``0.8 ms``, ``31 ms``, ``3.6 s``: a salvage is often over within a millisecond."""
    if seconds is None:
        return otherwise
    return f"{seconds * 1000:.1f} ms" if seconds < 0.00995 else duration(seconds)


def is_over(report: RecoveryReport) -> bool:
    return report.finished_unix is not None


def printable(text: str) -> str:
    """Text of a peer's on one line, without anything that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
