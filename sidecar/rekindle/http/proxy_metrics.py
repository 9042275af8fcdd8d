"""The stream proxy's counts as Prometheus metrics: what its process last told, passed on.

A proxy that is started again counts from zero, which Prometheus takes as what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_COUNTERS = {
    "requests": "Requests that came in.",
    "protected": "Of those, protected.",
    "engine_deaths": "Times that the engine went away.",
}
_BY_LABEL = {
    "unprotected": ("reason", "Requests that could have been protected, and were not, or not to their end."),
    "resumed": ("way", "Answers that went on after a death."),
    "failed": ("type", "Answers that ended with our error."),
}
_GAUGES = {
    "waiting": "New requests that wait for an engine.",
    "in_flight": "Requests now.",
    "suspects": "Requests that are sent one at a time, because engines died under them.",
}


class ProxyCollector(Collector):
    """``counts`` gives ``proxy.counts.Counts`` as JSON; empty before the proxy has said anything."""

    def __init__(self, counts: Callable[[], Mapping[str, Any]]) -> None:
        self._counts = counts

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        counts = self._counts()
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"rekindle_proxy_{name}", text, counts.get(name, 0))
        for name, (label, text) in _BY_LABEL.items():
            family = CounterMetricFamily(f"rekindle_proxy_{name}", text, labels=(label,))
            for value, count in counts.get(name, {}).items():
                family.add_metric((value,), count)
            yield family
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"rekindle_proxy_{name}", text, counts.get(name, 0))
