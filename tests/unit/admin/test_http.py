"""Health and metrics over a real connection on a port the kernel chose."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from dataclasses import replace

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rekindle.config import HttpAddress
from rekindle.http.metrics import KeeperCollector
from rekindle.http.server import HttpServer
from rekindle.lifecycle.status import KeeperStatus
from rekindle.lifecycle.totals import Totals
from rekindle_plugins.contract.errors import InUseError, StoreError
from status_samples import EMPTY, ENGINE, STATUS, STORE, TOTALS, FakeSource

ANY = HttpAddress("127.0.0.1", 0)


def get(source: FakeSource, paths: Sequence[str]) -> list[tuple[int, str]]:
    async def main() -> list[tuple[int, str]]:
        server = HttpServer(source, ANY)
        await server.start()
        answers = []
        try:
            assert server.address.port != 0
            async with aiohttp.ClientSession(f"http://127.0.0.1:{server.address.port}") as session:
                for path in paths:
                    async with session.get(path) as response:
                        answers.append((response.status, await response.text()))
        finally:
            await server.stop()
            await server.stop()
        return answers

    return asyncio.run(asyncio.wait_for(main(), 20))


def scrape(status: KeeperStatus, totals: Totals = TOTALS) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(KeeperCollector(FakeSource(status, totals)))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def value(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float | None:
    return samples.get((f"rekindle_{name}", frozenset(labels.items())))


def test_livez_says_the_loop_turns_whatever_the_keeper_says() -> None:
    assert get(FakeSource(EMPTY), ["/livez"]) == [(200, '{"alive": true}')]
    assert get(FakeSource(error=StoreError("a", "b", "c")), ["/livez"])[0][0] == 200


def test_readyz_is_200_without_any_engine() -> None:
    assert get(FakeSource(replace(STATUS, engines=())), ["/readyz"]) == [(200, '{"ready": true, "reasons": []}')]


def test_readyz_is_503_with_reasons() -> None:
    ((code, text),) = get(FakeSource(replace(EMPTY, stores=(STORE,))), ["/readyz"])
    assert code == 503
    assert "the keeper is not ready" in text
    assert STORE.messages[0] in text
    ((code, text),) = get(FakeSource(error=StoreError("open", "arena a1", "no space")), ["/readyz"])
    assert code == 503
    assert "no space" in text


def test_engine_livez_is_503_for_a_hang_and_says_which() -> None:
    hung = replace(ENGINE, note="it hangs: no step for 31.5 s (limit 30.0 s), 5 requests outstanding")
    ((code, text),) = get(FakeSource(replace(STATUS, engines=(hung, replace(ENGINE, hung_s=None)))), ["/engine/livez"])
    assert code == 503
    assert json.loads(text) == {"alive": False, "hung": [f"vllm {ENGINE.instance}: {hung.note}"]}


@pytest.mark.parametrize(
    "source",
    [
        FakeSource(replace(STATUS, engines=())),
        FakeSource(replace(STATUS, engines=(replace(ENGINE, hung_s=None),))),
        FakeSource(replace(STATUS, engines=(replace(ENGINE, hung_s=None, state="salvaging"),))),
        FakeSource(EMPTY),
    ],
)
def test_engine_livez_is_200_for_everything_else(source: FakeSource) -> None:
    assert get(source, ["/engine/livez"]) == [(200, '{"alive": true, "hung": []}')]


@pytest.mark.parametrize("error", [StoreError("open", "arena a1", "no space"), ValueError("a bug")])
def test_engine_livez_never_fails_for_the_sidecars_own_trouble(error: Exception) -> None:
    ((code, text),) = get(FakeSource(error=error), ["/engine/livez"])
    assert (code, json.loads(text)["unknown"]) == (200, type(error).__name__)


def test_metrics_are_prometheus_text_and_other_paths_are_404() -> None:
    (code, text), (missing, _) = get(FakeSource(), ["/metrics", "/"])
    assert (code, missing) == (200, 404)
    assert 'rekindle_engines{backend="vllm",state="running"} 1.0' in text
    assert "# TYPE rekindle_pages_checkpointed_total counter" in text
    assert "python_info" not in text


def test_metrics_tell_the_status() -> None:
    samples = scrape(STATUS)
    assert value(samples, "info", version="0.1.0") == 1
    assert value(samples, "ready") == 1
    assert value(samples, "pages_live", backend="vllm") == 1200
    assert value(samples, "pages_pending", backend="vllm") == 4
    assert value(samples, "pages_checkpointed_total", backend="vllm") == 1150
    assert value(samples, "pages_lost_total", backend="vllm", reason="overwrite") == 3
    assert value(samples, "pages_lost_total", backend="vllm", reason="journal") == 2
    assert value(samples, "pages_rejected_total", backend="vllm", reason="fence-moved") == 7
    assert value(samples, "engine_hung", backend="vllm") == 1
    assert value(samples, "shim_seconds_per_step", backend="vllm") == pytest.approx(12.25e-6)
    assert value(samples, "store_used_bytes") == 1 << 29
    assert value(samples, "store_evictions_total") == 17
    assert value(samples, "checkpointed_bytes_total") == 5 << 30
    assert value(samples, "connections_refused_total", reason="peer_refused") == 2
    assert value(samples, "checkpoint_lag_seconds", backend="vllm") == 0.012
    assert value(samples, "engine_step_age_seconds", backend="vllm") == 0.75
    assert value(samples, "engine_deaths_total", backend="vllm") == 3
    assert value(samples, "engine_restarts_total", backend="vllm") == 3
    assert value(samples, "copier_bytes_total", rank="1", direction="load") == 3 << 19
    assert value(samples, "copier_busy_seconds_total", rank="1") == 2.5
    assert value(samples, "recoveries_total") == 3
    assert value(samples, "recovery_seconds_bucket", phase="salvage", le="0.005") == 1
    assert value(samples, "recovery_seconds_bucket", phase="salvage", le="+Inf") == 3
    assert value(samples, "recovery_seconds_count", phase="salvage") == 3
    assert value(samples, "recovery_seconds_sum", phase="salvage") == 0.03
    assert value(samples, "last_recovery_detect_seconds") == 0.004
    assert value(samples, "last_recovery_warm_seconds") == 3.25
    assert value(samples, "last_recovery_restored_pages") == 990
    assert value(samples, "last_recovery_down_seconds") == 2.5


def test_no_label_names_an_instance_or_an_identity() -> None:
    labels = {pair for _, labels in scrape(STATUS) for pair in labels}
    known = {"backend", "state", "mode", "reason", "version", "rank", "direction", "phase", "le"}
    assert {name for name, _ in labels} <= known
    assert not {ENGINE.instance, ENGINE.identity} & {text for _, text in labels}


def test_what_has_not_happened_has_no_sample() -> None:
    samples = scrape(EMPTY, Totals())
    assert value(samples, "recoveries_total") == 0
    assert not [name for name, _ in samples if name.startswith("rekindle_last_recovery")]


def test_endless_reasons_become_other() -> None:
    rejected = {f"reason-{number:03d}": 1 for number in range(200)}
    totals = replace(TOTALS, backends={"vllm": replace(TOTALS.backends["vllm"], rejected=rejected)})
    samples = scrape(replace(STATUS, refused=rejected), totals)
    for name, per in (("rekindle_pages_rejected_total", 168), ("rekindle_connections_refused_total", 168)):
        found = {dict(labels)["reason"]: count for (sample, labels), count in samples.items() if sample == name}
        assert len(found) == 33
        assert found["other"] == per


def test_an_idle_engine_has_no_step_age_and_of_several_the_worst_is_shown() -> None:
    idle, slow = replace(ENGINE, step_age_s=None), replace(ENGINE, instance="b", step_age_s=9.5)
    assert value(scrape(replace(STATUS, engines=(idle,))), "engine_step_age_seconds", backend="vllm") is None
    several = scrape(replace(STATUS, engines=(idle, ENGINE, slow)))
    assert value(several, "engine_step_age_seconds", backend="vllm") == 9.5


def test_a_port_that_is_taken_is_an_error_with_a_hint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = HttpServer(FakeSource(), HttpAddress("127.0.0.1", taken.getsockname()[1]))
        with pytest.raises(InUseError, match="in use") as caught:
            asyncio.run(server.start())
    assert "--http off" in caught.value.hint
