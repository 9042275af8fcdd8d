"""What ``rekindle top`` makes of one status after the other: rates, and the last minutes of each. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rekindle.lifecycle.status import EngineStatus, KeeperStatus

KEPT = 240
"""Samples for the charts: as many as the widest one has columns."""


@dataclass(frozen=True)
class Rates:
    """Per second, between the last two statuses. All zero where there is no status before."""

    pages_checkpointed: float = 0.0
    bytes_checkpointed: float = 0.0
    pages_restored: float = 0.0
    bytes_restored: float = 0.0


@dataclass(frozen=True)
class EngineRates:
    pages_checkpointed: float = 0.0
    steps: float = 0.0


@dataclass
class History:
    """Fed with every status that was got; ``engines`` by instance, for those that were there before, too."""

    rates: Rates | None = None
    engines: dict[str, EngineRates] = field(default_factory=dict)
    checkpointed: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Bytes a second."""
    restored: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    pending: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    _before: KeeperStatus | None = None

    def add(self, status: KeeperStatus) -> None:
        """The sidecar's own clock counts, so that a slow answer makes no false rate. A sidecar that was started anew
        begins a new history."""
        before = self._before
        if before is not None and status.uptime_s <= before.uptime_s:
            self.forget()
            before = None
        self._before = status
        self.pending.append(sum(engine.pages.pending for engine in status.engines))
        if before is None:
            return
        elapsed_s = status.uptime_s - before.uptime_s
        engines = {engine.instance: engine for engine in before.engines}
        self.engines = {
            engine.instance: _engine_rates(engines[engine.instance], engine, elapsed_s)
            for engine in status.engines
            if engine.instance in engines
        }
        restored = sum(
            _grown(engines[engine.instance].pages.restored, engine.pages.restored)
            if engine.instance in engines
            else engine.pages.restored
            for engine in status.engines
        )
        self.rates = Rates(
            pages_checkpointed=sum(rates.pages_checkpointed for rates in self.engines.values()),
            bytes_checkpointed=_grown(before.bytes_checkpointed, status.bytes_checkpointed) / elapsed_s,
            pages_restored=restored / elapsed_s,
            bytes_restored=_grown(before.bytes_restored, status.bytes_restored) / elapsed_s,
        )
        self.checkpointed.append(self.rates.bytes_checkpointed)
        self.restored.append(self.rates.bytes_restored)

    def forget(self) -> None:
        """The next status is the first one."""
        self.rates, self.engines, self._before = None, {}, None
        for series in (self.checkpointed, self.restored, self.pending):
            series.clear()


def _engine_rates(before: EngineStatus, now: EngineStatus, elapsed_s: float) -> EngineRates:
    return EngineRates(
        pages_checkpointed=_grown(before.pages.checkpointed, now.pages.checkpointed) / elapsed_s,
        steps=_grown(before.steps, now.steps) / elapsed_s,
    )


def _grown(before: int, now: int) -> int:
    """What a counter has grown by; one that fell has begun anew."""
    return now - before if now >= before else now
