"""The keeper's status and totals as Prometheus metrics, made at each scrape from plain values. No state here.

Runs on the keeper's event loop. Labels are bounded: backends and states are few, ranks are at most 64, reasons are
capped, and an engine's instance or identity is never a label. What every family means is in ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple, Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from rekindle.admin.source import StatusSource
from rekindle.lifecycle.status import EngineStatus, KeeperStatus, RecoveryReport, StoreStatus
from rekindle.lifecycle.totals import PHASE_BOUNDS_S, BackendTotals, CopierTotals, PhaseTimes, Totals

_MOST_REASONS = 32
"""Reasons come from peers too: beyond this many, they count as "other"."""


class MetricsSource(StatusSource, Protocol):
    """The keeper, or a stand-in."""

    def totals(self) -> Totals:
        """What was counted since it started. Called on the event loop; must not block."""
        ...


class _BackendCount(NamedTuple):
    name: str
    help: str
    labels: tuple[str, ...]
    """Beside ``backend``."""
    read: Callable[[BackendTotals], Mapping[tuple[str, ...], int]]


_BACKEND_COUNTS = (
    _BackendCount("pages_checkpointed", "Pages copied to the store.", (), lambda t: {(): t.checkpointed}),
    _BackendCount("pages_already_stored", "Pages the store had.", (), lambda t: {(): t.already_stored}),
    _BackendCount("pages_restored", "Pages put into an engine.", (), lambda t: {(): t.restored}),
    _BackendCount(
        "pages_lost",
        "Committed pages not checkpointed: overwritten by the engine, or their journal record was.",
        ("reason",),
        lambda t: {("overwrite",): t.lost_to_overwrite, ("journal",): t.lost_in_journal},
    ),
    _BackendCount(
        "pages_rejected",
        "Pages not restored or not checkpointed, by reason.",
        ("reason",),
        lambda t: {(reason,): count for reason, count in _capped(t.rejected).items()},
    ),
    _BackendCount("engine_steps", "Steps of attached engines.", (), lambda t: {(): t.steps}),
    _BackendCount("engine_deaths", "Deaths of engines that were attached.", (), lambda t: {(): t.deaths}),
    _BackendCount("engine_restarts", "Engines that came after one had died.", (), lambda t: {(): t.restarts}),
)


class KeeperCollector(Collector):
    """Yields every metric from one ``status()`` and one ``totals()``. Used by one registry."""

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def describe(self) -> list[Metric]:
        """Nothing: asking the keeper while its metrics are being registered would be too early."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Raises what ``status()`` raises; the scrape then fails as a whole rather than in part."""
        status, totals = self._source.status(), self._source.totals()
        yield InfoMetricFamily("rekindle", "The sidecar.", {"version": status.version})
        yield _gauge("ready", "1 when it listens for engines, also while it drains.", float(status.ready))
        yield _mode(status.mode)
        yield _gauge("uptime_seconds", "Since the sidecar started.", status.uptime_s)
        yield from _engines(status)
        yield from _backends(totals.backends)
        yield from _stores(status.stores)
        yield _counter("store_evictions", "Pages evicted for room.", totals.evicted)
        yield _counter("checkpointed_bytes", "Bytes copied out of engines.", status.bytes_checkpointed)
        yield _counter("restored_bytes", "Bytes filled into engines.", status.bytes_restored)
        yield from _copiers(totals.copiers)
        yield _counter("copier_crashes", "Copiers that died or were killed as stuck.", status.copier_crashes)
        refused = CounterMetricFamily("rekindle_connections_refused", "Peers turned away.", labels=("reason",))
        for reason, count in _capped(status.refused).items():
            refused.add_metric((reason,), count)
        yield refused
        yield _counter("recoveries", "Recoveries that came to their end.", totals.recoveries)
        yield _phases(totals.phases)
        yield from _last_recovery(status.last_recovery)


def _mode(mode: str) -> Metric:
    family = GaugeMetricFamily("rekindle_mode", "1 for what an operator has told it to do.", labels=("mode",))
    family.add_metric((mode,), 1.0)
    return family


def _engines(status: KeeperStatus) -> Iterator[Metric]:
    engines = GaugeMetricFamily("rekindle_engines", "Engines now.", labels=("backend", "state"))
    present: dict[tuple[str, str], int] = {}
    for engine in status.engines:
        present[engine.backend, engine.state] = present.get((engine.backend, engine.state), 0) + 1
    for labels, count in present.items():
        engines.add_metric(labels, count)
    yield engines
    yield _by_backend(status, "pages_live", "Committed pages in engines now.", lambda e: e.pages.live)
    yield _by_backend(status, "pages_pending", "Committed pages not copied yet.", lambda e: e.pages.pending)
    yield _by_backend(status, "requests_outstanding", "Requests in engines now.", lambda e: e.outstanding)
    yield _by_backend(
        status, "engine_hung", "Engines that have work and make no step.", lambda e: float(e.hung_s is not None)
    )
    yield _worst_by_backend(
        status, "checkpoint_lag_seconds", "Age of the oldest page not copied yet.", lambda e: e.pages.lag_s
    )
    yield _worst_by_backend(
        status, "engine_step_age_seconds", "Since an engine with work took a step.", lambda e: e.step_age_s
    )
    yield _worst_by_backend(
        status, "shim_seconds_per_step", "What the shim adds to a step.", lambda e: e.shim_us_per_step / 1e6
    )


def _backends(backends: Mapping[str, BackendTotals]) -> Iterator[Metric]:
    for row in _BACKEND_COUNTS:
        family = CounterMetricFamily(f"rekindle_{row.name}", row.help, labels=("backend", *row.labels))
        for backend, totals in backends.items():
            for more, count in row.read(totals).items():
                family.add_metric((backend, *more), count)
        yield family


def _copiers(copiers: Mapping[int, CopierTotals]) -> Iterator[Metric]:
    moved = CounterMetricFamily("rekindle_copier_bytes", "Bytes moved.", labels=("rank", "direction"))
    busy = CounterMetricFamily("rekindle_copier_busy_seconds", "Time with rows to copy.", labels=("rank",))
    for rank, totals in copiers.items():
        moved.add_metric((str(rank), "save"), totals.saved_bytes)
        moved.add_metric((str(rank), "load"), totals.loaded_bytes)
        busy.add_metric((str(rank),), totals.busy_s)
    yield moved
    yield busy


def _stores(stores: tuple[StoreStatus, ...]) -> Iterator[Metric]:
    # One store per identity: identities come and go, so they are summed and never a label.
    yield _gauge("stores", "Open stores.", len(stores))
    yield _gauge("store_size_bytes", "Reserved for pages.", sum(s.size_bytes for s in stores))
    yield _gauge("store_used_bytes", "Taken by pages.", sum(s.used_bytes for s in stores))
    yield _gauge("store_slots", "Slots for pages.", sum(s.slots for s in stores))
    yield _gauge("store_pages", "Pages held.", sum(s.pages for s in stores))
    yield _gauge("store_pages_pinned", "Pages held that may not be evicted now.", sum(s.pinned for s in stores))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"rekindle_{name}", text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"rekindle_{name}", text, value)


def _by_backend(status: KeeperStatus, name: str, text: str, read: Callable[[EngineStatus], float]) -> Metric:
    family = GaugeMetricFamily(f"rekindle_{name}", text, labels=("backend",))
    sums: dict[str, float] = {}
    for engine in status.engines:
        sums[engine.backend] = sums.get(engine.backend, 0.0) + read(engine)
    for backend, value in sums.items():
        family.add_metric((backend,), value)
    return family


def _worst_by_backend(
    status: KeeperStatus, name: str, text: str, read: Callable[[EngineStatus], float | None]
) -> Metric:
    """The largest value. A backend none of whose engines has one gives no sample."""
    family = GaugeMetricFamily(f"rekindle_{name}", text, labels=("backend",))
    worst: dict[str, float] = {}
    for engine in status.engines:
        value = read(engine)
        if value is not None:
            worst[engine.backend] = max(value, worst.get(engine.backend, value))
    for backend, value in worst.items():
        family.add_metric((backend,), value)
    return family


def _capped(counts: Mapping[str, int]) -> dict[str, int]:
    """At most ``_MOST_REASONS`` labels: the first ones by name, which are the same at every scrape, and the rest."""
    names = sorted(counts)
    kept = {name: counts[name] for name in names[:_MOST_REASONS]}
    rest = sum(counts[name] for name in names[_MOST_REASONS:])
    return kept | {"other": kept.get("other", 0) + rest} if rest else kept


def _phases(phases: Mapping[str, PhaseTimes]) -> Metric:
    family = HistogramMetricFamily("rekindle_recovery_seconds", "How long recoveries took.", labels=("phase",))
    bounds = [*(str(bound) for bound in PHASE_BOUNDS_S), "+Inf"]
    for phase, times in phases.items():
        family.add_metric((phase,), list(zip(bounds, accumulate(times.counts), strict=True)), times.sum_s)
    return family


def _last_recovery(last: RecoveryReport | None) -> Iterator[Metric]:
    if last is None:
        return
    yield _gauge("last_recovery_committed_pages", "Committed by the engine that died.", last.pages_committed)
    yield _gauge("last_recovery_salvaged_pages", "Read out of it after its death.", last.pages_salvaged)
    yield _gauge("last_recovery_unsaved_pages", "Committed and lost.", last.pages_unsaved)
    yield _gauge("last_recovery_restored_pages", "Put into the next engine.", last.pages_restored)
    yield _gauge("last_recovery_restored_tokens", "Tokens not computed again.", last.tokens_restored)
    rejected = GaugeMetricFamily("rekindle_last_recovery_rejected_pages", "Not restored.", labels=("reason",))
    for reason, count in _capped(last.pages_rejected).items():
        rejected.add_metric((reason,), count)
    yield rejected
    times = (
        ("last_recovery_detect_seconds", "From its last step to noticing the death.", last.detect_s),
        ("last_recovery_salvage_seconds", "Time spent reading the dead engine.", last.salvage_s),
        ("last_recovery_release_seconds", "From the death until its memory was let go.", last.release_s),
        ("last_recovery_down_seconds", "From the death until the next engine attached.", last.down_s),
        ("last_recovery_restore_seconds", "From the question for pages until they were in.", last.restore_s),
        ("last_recovery_warm_seconds", "From the death until the next engine had its pages.", last.warm_s),
        ("last_recovery_finished_timestamp_seconds", "When it was over.", last.finished_unix),
    )
    for name, text, value in times:
        if value is not None:  # not happened yet: no sample, rather than a zero that reads as "at once"
            yield _gauge(name, text, value)
