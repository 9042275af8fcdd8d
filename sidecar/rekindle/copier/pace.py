"""A cap on how fast a copier checkpoints: bytes per second, for engines whose own transfers must not be crowded out.

Pure: the caller has the clock and does the waiting.
"""

from __future__ import annotations

BURST_S = 0.05
"""Time unused is saved up only so far: after a pause the cap holds at once."""


class Pace:
    """Says how long to wait before the next bytes. A cap of 0 is none."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._due = 0.0

    @property
    def is_capped(self) -> bool:
        return self._bytes_per_s > 0

    def lift(self) -> None:
        """No cap from now on: what is in the way of a salvage only loses pages."""
        self._bytes_per_s = 0

    def wait_s(self, now: float) -> float:
        """Seconds from `now` until the next bytes are due."""
        return max(0.0, self._due - now) if self.is_capped else 0.0

    def spend(self, byte_count: int, now: float) -> None:
        """Takes note of bytes that are being moved from `now` on."""
        if self.is_capped:
            self._due = max(self._due, now - BURST_S) + byte_count / self._bytes_per_s
