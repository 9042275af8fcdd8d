"""What has happened in the proxy: plain numbers, told to the sidecar, which shows them as metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """Totals since the process began, and how it is now."""

    requests: int = 0
    protected: int = 0
    unprotected: Counter[str] = field(default_factory=Counter)
    """Requests on paths that the dialect knows, by why they were not protected."""
    resumed: Counter[str] = field(default_factory=Counter)
    """By way."""
    failed: Counter[str] = field(default_factory=Counter)
    """Requests that a client got our error for, by its type."""
    engine_deaths: int = 0
    waiting: int = 0
    in_flight: int = 0
    suspects: int = 0
    silent: bool = False
    """The engine's server leaves requests without an answer; see `EngineLink.is_silent`."""

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "protected": self.protected,
            "unprotected": dict(self.unprotected),
            "resumed": dict(self.resumed),
            "failed": dict(self.failed),
            "engine_deaths": self.engine_deaths,
            "waiting": self.waiting,
            "in_flight": self.in_flight,
            "suspects": self.suspects,
            "silent": self.silent,
        }
