"""The keeper's status as Prometheus metrics, made at each scrape from plain values. No state in prometheus_client.

Runs on the keeper's event loop. Labels are bounded: backends and states are few, reasons are capped, and an engine's
instance or identity is never a label.

Counters: an engine tells its own counts since it attached, and takes them along when it goes. ``_Totals`` adds up
what each grew between scrapes, so that the sums never fall. What an engine counted between the last scrape and its
death is missing from them; the keeper's own counts (bytes, crashes, refusals, recoveries) are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from rekindle.admin.source import StatusSource
from rekindle.lifecycle.status import EngineStatus, KeeperStatus, RecoveryReport, StoreStatus

_MOST_REASONS = 32
"""Reasons come from peers too: beyond this many, they count as "other"."""


class _EngineCount(NamedTuple):
    name: str
    help: str
    labels: tuple[str, ...]
    """Beside ``backend``."""
    read: Callable[[EngineStatus], Mapping[tuple[str, ...], int]]


_ENGINE_COUNTS = (
    _EngineCount("pages_checkpointed", "Pages copied to the store.", (), lambda e: {(): e.pages.checkpointed}),
    _EngineCount("pages_already_stored", "Pages the store had.", (), lambda e: {(): e.pages.already_stored}),
    _EngineCount("pages_restored", "Pages put into an engine.", (), lambda e: {(): e.pages.restored}),
    _EngineCount(
        "pages_lost",
        "Committed pages not checkpointed: overwritten by the engine, or their journal record was.",
        ("reason",),
        lambda e: {("overwrite",): e.pages.lost_to_overwrite, ("journal",): e.pages.lost_in_journal},
    ),
    _EngineCount(
        "pages_rejected",
        "Pages not restored or not checkpointed, by reason.",
        ("reason",),
        lambda e: {(reason,): count for reason, count in e.pages.rejected.items()},
    ),
    _EngineCount("engine_steps", "Steps of attached engines.", (), lambda e: {(): e.steps}),
)


class _Totals:
    """Sums that never fall, of counts whose owners come and go. Holds one number per present owner and label."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, tuple[str, ...]], int] = {}
        self._sums: dict[tuple[str, ...], int] = {}

    def observe(self, counts: Mapping[tuple[str, tuple[str, ...]], int]) -> Mapping[tuple[str, ...], int]:
        """Take every present owner's count by (owner, labels); the sums by labels."""
        for key, count in counts.items():
            before = self._seen.get(key, 0)
            # A fall means that the owner began again from zero, as Prometheus itself takes it.
            grown = count - before if count >= before else count
            labels = self._bounded(key[1])
            self._sums[labels] = self._sums.get(labels, 0) + grown
        self._seen = dict(counts)
        return self._sums

    def _bounded(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        full = labels not in self._sums and len(self._sums) >= _MOST_REASONS
        return (*labels[:-1], "other") if full else labels


class KeeperCollector(Collector):
    """Yields every metric from one ``status()``. Used by one registry."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source
        self._engine_totals = {count.name: _Totals() for count in _ENGINE_COUNTS}
        self._evicted = _Totals()

    def describe(self) -> list[Metric]:
        """Nothing: asking the keeper while its metrics are being registered would be too early."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Raises what ``status()`` raises; the scrape then fails as a whole rather than in part."""
        status = self._source.status()
        yield InfoMetricFamily("rekindle", "The sidecar.", {"version": status.version})
        yield _gauge("ready", "1 when an engine may attach.", float(status.ready))
        yield _gauge("uptime_seconds", "Since the sidecar started.", status.uptime_s)
        yield from self._engines(status)
        yield from self._stores(status.stores)
        yield _counter("checkpointed_bytes", "Bytes copied out of engines.", status.bytes_checkpointed)
        yield _counter("restored_bytes", "Bytes filled into engines.", status.bytes_restored)
        yield _counter("copier_crashes", "Copiers that died or were killed as stuck.", status.copier_crashes)
        refused = CounterMetricFamily("rekindle_connections_refused", "Peers turned away.", labels=("reason",))
        for reason, count in _capped(status.refused).items():
            refused.add_metric((reason,), count)
        yield refused
        yield from _recovery(status.last_recovery)

    def _engines(self, status: KeeperStatus) -> Iterator[Metric]:
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
        yield _by_backend(
            status,
            "shim_seconds_per_step",
            "What the shim adds to a step, summed over engines.",
            lambda e: e.shim_us_per_step / 1e6,
        )
        for row in _ENGINE_COUNTS:
            counts = {
                (engine.instance, (engine.backend, *more)): value
                for engine in status.engines
                for more, value in row.read(engine).items()
            }
            family = CounterMetricFamily(f"rekindle_{row.name}", row.help, labels=("backend", *row.labels))
            for total_labels, total in self._engine_totals[row.name].observe(counts).items():
                family.add_metric(total_labels, total)
            yield family

    def _stores(self, stores: tuple[StoreStatus, ...]) -> Iterator[Metric]:
        # One store per identity: identities come and go, so they are summed and never a label.
        yield _gauge("stores", "Open stores.", len(stores))
        yield _gauge("store_size_bytes", "Reserved for pages.", sum(s.size_bytes for s in stores))
        yield _gauge("store_used_bytes", "Taken by pages.", sum(s.used_bytes for s in stores))
        yield _gauge("store_slots", "Slots for pages.", sum(s.slots for s in stores))
        yield _gauge("store_pages", "Pages held.", sum(s.pages for s in stores))
        yield _gauge("store_pages_pinned", "Pages held that may not be evicted now.", sum(s.pinned for s in stores))
        evicted = self._evicted.observe({(f"{s.directory} {s.identity}", ()): s.evicted for s in stores})
        yield _counter("store_evictions", "Pages evicted for room.", evicted.get((), 0))


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


def _capped(counts: Mapping[str, int]) -> dict[str, int]:
    """At most ``_MOST_REASONS`` labels: the first ones by name, which are the same at every scrape, and the rest."""
    names = sorted(counts)
    kept = {name: counts[name] for name in names[:_MOST_REASONS]}
    rest = sum(counts[name] for name in names[_MOST_REASONS:])
    return kept | {"other": kept.get("other", 0) + rest} if rest else kept


def _recovery(last: RecoveryReport | None) -> Iterator[Metric]:
    yield _counter("recoveries", "Engine deaths seen.", last.number if last is not None else 0)
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
        ("last_recovery_salvage_seconds", "Time spent reading the dead engine.", last.salvage_s),
        ("last_recovery_release_seconds", "From the death until its memory was let go.", last.release_s),
        ("last_recovery_down_seconds", "From the death until the next engine attached.", last.down_s),
        ("last_recovery_restore_seconds", "From the question for pages until they were in.", last.restore_s),
        ("last_recovery_finished_timestamp_seconds", "When it was over.", last.finished_unix),
    )
    for name, text, value in times:
        if value is not None:  # not happened yet: no sample, rather than a zero that reads as "at once"
            yield _gauge(name, text, value)
