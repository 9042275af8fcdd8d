"""Waiting for something to become true, with a deadline and a sentence that says what was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE_S = 0.005


def until(what: str, probe: Callable[[], T], timeout_s: float = 15.0) -> T:
    """Calls `probe` until it gives something true, and returns that. AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what} (last seen: {found!r})")
        time.sleep(PAUSE_S)
