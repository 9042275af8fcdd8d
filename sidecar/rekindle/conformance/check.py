"""What a check is: a name, a promise in one line, and a function of a bench."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rekindle.conformance.bench import Bench


@dataclass(frozen=True)
class Check:
    """`run` returns, or raises BrokenPromiseError or NotApplicableError."""

    name: str
    promise: str
    run: Callable[[Bench], None]
