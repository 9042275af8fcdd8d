"""What a check comes to: passed, failed with what was seen, or not applicable and why not."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

POLL_S = 0.01


class Verdict(enum.Enum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True)
class Outcome:
    """One check's line. `seen`: what went wrong, or why the check does not apply; empty when it passed."""

    check: str
    promise: str
    verdict: Verdict
    seen: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        told = {"check": self.check, "promise": self.promise, "verdict": self.verdict.value}
        return {**told, "seen": self.seen, "seconds": round(self.seconds, 3)}


class BrokenPromiseError(Exception):
    """The plugin did not do what a check wants of it. The text is what was seen, for the plugin's author."""


class NotApplicableError(Exception):
    """The plugin does not claim what a check is about. The text says what it does not claim."""


@dataclass(frozen=True)
class Limits:
    """How long the kit waits before it calls something stuck. Generous: a busy machine is no fault of a plugin's."""

    start_s: float = 120.0
    """For an engine to start."""
    call_s: float = 30.0
    """For any other call of a driver."""
    answer_s: float = 120.0
    """For requests to be answered, however many steps that takes."""
    event_s: float = 60.0
    """For something that has to come about by itself: pages stored, an engine attached again."""


def require(holds: object, seen: str) -> None:
    """Raises BrokenPromiseError with what was seen instead, unless it holds."""
    if not holds:
        raise BrokenPromiseError(seen)


def wait_for(what: str, probe: Callable[[], T], timeout_s: float, between: Callable[[], object] = lambda: None) -> T:
    """Calls `probe` until it gives something true, and returns that. `between` is called between two tries.

    Raises BrokenPromiseError that says what did not come about, and what was seen last.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise BrokenPromiseError(f"not within {timeout_s:g} s: {what} (last seen: {found!r:.200})")
        between()
        time.sleep(POLL_S)
