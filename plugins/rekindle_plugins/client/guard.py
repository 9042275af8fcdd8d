"""A shim's one outermost guard: whatever goes wrong in it, the engine goes on as if it had none.

The first failure turns the shim off (a cold start is the worst that may happen), is logged once with its traceback, and
is counted. Pages that may still be written to by a copier are not the guard's business: the fills' quarantine holds.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Guard:
    """Wraps the entry points of a shim. `is_on` is False after the first failure."""

    def __init__(self, log: logging.Logger, on_trip: Callable[[], None] = lambda: None) -> None:
        """`on_trip` must leave nothing announced that the shim no longer fences; it is called at most once."""
        self.is_on = True
        self.failures = 0
        self._log = log
        self._on_trip = on_trip

    def call(self, default: T, work: Callable[..., T], *args: Any) -> T:
        """`work(*args)`, or `default` when the shim is off or fails."""
        if not self.is_on:
            return default
        try:
            return work(*args)
        except Exception:
            self.trip(getattr(work, "__qualname__", str(work)))
            return default

    def trip(self, where: str) -> None:
        self.failures += 1
        if self.is_on:
            self._log.exception("rekindle is off for this engine start (the engine is not affected): %s failed", where)
            self._turn_off()

    def turn_off(self, why: str) -> None:
        """For what is no failure: a configuration that the shim does not support."""
        if self.is_on:
            self._log.warning("rekindle is off for this engine start: %s", why)
            self._turn_off()

    def _turn_off(self) -> None:
        self.is_on = False
        try:
            self._on_trip()
        except Exception:
            self._log.exception("rekindle could not turn itself off cleanly")


def guarded(default: Callable[[], T]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """For methods of objects with a `guard`: `default()` is the answer when the shim is off or fails."""

    def decorate(method: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(method)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> T:
            guard: Guard = self.guard
            if not guard.is_on:
                return default()
            try:
                return method(self, *args, **kwargs)
            except Exception:
                guard.trip(method.__qualname__)
                return default()

        return wrapper

    return decorate
