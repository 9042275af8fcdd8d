"""The metrics of a real sidecar whose engine was killed, and everything that is written about them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from driving import Pod, Reference
from driving.process import proceed, stop_and_wait
from driving.reference import prompt
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "examples/grafana/rekindle.json"
ALERTS = ROOT / "examples/prometheus/rekindle-alerts.yaml"
OUTSIDE = {"up"}
"""Metrics of Prometheus itself that the rules may use."""
OUTSIDE_LABELS = {"instance", "job", "namespace", "pod"}
"""What a scrape configuration adds."""


@dataclass(frozen=True)
class Family:
    name: str
    type: str
    samples: dict[str, set[str]]
    """Labels by the name of a sample, for those that have samples."""


@dataclass(frozen=True)
class Scrape:
    families: dict[str, Family]
    values: dict[tuple[str, frozenset[tuple[str, str]]], float]

    @staticmethod
    def of(text: str) -> Scrape:
        families, values = {}, {}
        for metric in text_string_to_metric_families(text):
            samples: dict[str, set[str]] = {}
            for sample in metric.samples:
                samples.setdefault(sample.name, set()).update(sample.labels)
                values[sample.name, frozenset(sample.labels.items())] = sample.value
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            families[name] = Family(name, metric.type, samples)
        return Scrape(families, values)

    def value(self, name: str, **labels: str) -> float | None:
        return self.values.get((f"rekindle_{name}", frozenset(labels.items())))

    def labels(self, sample: str) -> set[str] | None:
        """The labels of a sample by the name that a query would use; None where there is no such metric."""
        for name in (sample, re.sub(r"_(bucket|sum|count)$", "", sample)):
            family = self.families.get(name)
            if family is not None and (name == sample or family.type == "histogram"):
                return family.samples.get(sample, set())
        return None


@pytest.fixture(scope="module")
def story() -> Iterator[tuple[Scrape, Scrape]]:
    """Scrapes while an engine has just died, and after the next one has its pages."""
    with Pod(http=":0", store_size="16MiB", proxy="127.0.0.1:0=http://127.0.0.1:9") as pod:
        pod.sidecar.start()
        engine = pod.engine()
        question = prompt(600)
        engine.ask(question)
        pod.sidecar.when_idle()
        with engine.stream(prompt(200, 1), 200) as stream:
            for _ in stream:
                if len(stream.token_ids) == 20:
                    break
            engine.kill()
        pod.sidecar.when_released()
        between = Scrape.of(pod.sidecar.scrape())
        engine.start()
        engine.ask(question)
        engine.ask(prompt(300, 2))
        pod.sidecar.when_idle()
        yield between, Scrape.of(pod.sidecar.scrape())


def test_the_counts_of_an_engine_stay_when_it_dies(story: tuple[Scrape, Scrape], reference: Reference) -> None:
    between, after = story
    assert between.families["rekindle_engines"].samples == {}, "no engine is left"
    # 600 + 32 tokens without the last, and what was committed of 200 + at least 20.
    saved = between.value("pages_checkpointed_total", backend="nano")
    assert saved is not None
    assert saved >= 39 + 13
    assert between.value("engine_deaths_total", backend="nano") == 1
    assert between.value("engine_restarts_total", backend="nano") == 0
    steps = between.value("engine_steps_total", backend="nano")
    assert steps is not None
    assert steps > 32
    page_bytes = between.value("checkpointed_bytes_total") / saved  # type: ignore[operator]
    assert between.value("copier_bytes_total", rank="0", direction="save") == saved * page_bytes
    assert between.value("copier_busy_seconds_total", rank="0") > 0  # type: ignore[operator]
    assert after.value("engine_restarts_total", backend="nano") == 1
    assert after.value("pages_restored_total", backend="nano") == saved
    assert after.value("copier_bytes_total", rank="0", direction="load") == saved * page_bytes
    assert after.value("pages_checkpointed_total", backend="nano") > saved  # type: ignore[operator]
    assert after.value("engine_steps_total", backend="nano") > steps  # type: ignore[operator]


def test_every_phase_of_a_recovery_is_measured_in_its_order(story: tuple[Scrape, Scrape]) -> None:
    between, after = story
    for phase in ("detect", "salvage", "release"):
        assert between.value("recovery_seconds_count", phase=phase) == 1
    for phase in ("down", "restore", "warm"):
        assert between.value("recovery_seconds_count", phase=phase) == 0
        assert after.value("recovery_seconds_count", phase=phase) == 1
    told = {
        phase: after.value(f"last_recovery_{phase}_seconds") or 0.0
        for phase in ("salvage", "release", "down", "restore", "warm")
    }
    assert told["salvage"] <= told["release"]
    assert max(told["down"], told["restore"]) <= told["warm"]
    assert between.value("recoveries_total") == 0
    assert after.value("recoveries_total") == 1


def test_an_engine_with_nothing_to_do_has_neither_lag_nor_a_step_age(story: tuple[Scrape, Scrape]) -> None:
    _, after = story
    assert after.value("pages_pending", backend="nano") == 0
    assert after.value("checkpoint_lag_seconds", backend="nano") == 0
    assert after.value("engine_step_age_seconds", backend="nano") is None


def test_a_hung_engine_with_work_grows_old_and_one_without_does_not(pod: Pod) -> None:
    engine = pod.engine()
    engine.ask(prompt(100))
    engine.freeze()
    assert pod.sidecar.engine().step_age_s is None
    engine.thaw()
    with engine.stream(prompt(100, 1), 400) as stream:
        next(iter(stream))
        engine.freeze()
        pod.sidecar.when("the engine's step to be old", lambda s: [e for e in s.engines if (e.step_age_s or 0) > 0.5])
        engine.thaw()
        for _ in stream:
            pass
    pod.sidecar.when("the engine to be idle", lambda s: [e.step_age_s for e in s.engines] == [None])


def test_pages_that_nobody_copies_grow_old(pod: Pod) -> None:
    engine = pod.engine()
    (copier,) = pod.sidecar.ready_copiers()
    stop_and_wait(copier)
    engine.ask(prompt(300))
    pages = pod.sidecar.when("a lag", lambda s: s.engines[0].pages.lag_s > 0.5).engines[0].pages
    assert pages.pending >= 18
    proceed(copier)
    after = pod.sidecar.when_idle().engines[0].pages
    assert after.lag_s == 0


def documented() -> dict[str, tuple[str, set[str]]]:
    """(type, labels) by family, as docs/metrics.md tells."""
    found = {}
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if line.startswith("| `rekindle_"):
            found[cells[1].strip("`")] = (cells[2], set(re.findall(r"`(\w+)`", cells[3])))
    return found


def test_the_documentation_has_every_metric_and_no_other(story: tuple[Scrape, Scrape]) -> None:
    _, after = story
    families, told = after.families, documented()
    assert set(told) == set(families)
    for name, family in families.items():
        kind, labels = told[name]
        assert kind == family.type
        for seen in family.samples.values():
            assert seen - {"le"} == labels, name


def expressions() -> list[tuple[str, str]]:
    """(where, PromQL) of the dashboard and the rules."""
    found = []
    for panel in walk(json.loads(DASHBOARD.read_text())):
        if "expr" in panel:
            found.append((f"dashboard {panel.get('refId')}", panel["expr"]))
    for group in YAML(typ="safe").load(ALERTS.read_text())["groups"]:
        found += [(f"rule {rule['alert']}", rule["expr"]) for rule in group["rules"]]
    return found


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    for branch in tree if isinstance(tree, list) else ():
        yield from walk(branch)


def selectors(node: Any) -> Iterator[Any]:
    """Every vector selector of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "args", "param", "vs", "vector_selector"):
        below = getattr(node, name, None)
        for each in below if isinstance(below, list) else [below]:
            if each is not None:
                yield from selectors(each)


def test_dashboard_and_alerts_use_only_metrics_and_labels_that_exist(story: tuple[Scrape, Scrape]) -> None:
    _, after = story
    used = set()
    for where, text in expressions():
        text = text.replace("$__rate_interval", "5m").replace("$__range", "1h")
        found = list(selectors(promql_parser.parse(text)))
        assert found, f"{where}: {text} selects nothing"
        for selector in found:
            used.add(selector.name)
            labels = set() if selector.name in OUTSIDE else after.labels(selector.name)
            assert labels is not None, f"{where}: there is no metric {selector.name}"
            family = documented().get(selector.name, documented().get(selector.name.removesuffix("_bucket")))
            known = labels | (family[1] if family else set()) | OUTSIDE_LABELS
            for matcher in selector.matchers.matchers:
                assert matcher.name in known, f"{where}: {selector.name} has no label {matcher.name}"
        for label in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", text):
            names = {name.strip() for name in label.split(",")} - {""}
            all_labels = {"le"} | OUTSIDE_LABELS | set().union(*(labels for _, labels in documented().values()))
            assert names <= all_labels, f"{where}: {text}"
    assert len(used) > 20, "the dashboard shows next to nothing"


def test_every_selector_of_an_expression_is_found() -> None:
    text = "sum by (backend) (rate(a[5m])) / on (backend) max(b) > 3 and topk(2, histogram_quantile(0.9, c)) or -d"
    assert sorted(each.name for each in selectors(promql_parser.parse(text))) == ["a", "b", "c", "d"]


def test_every_alert_says_what_to_do() -> None:
    rules = [rule for group in YAML(typ="safe").load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert len(rule["annotations"]["description"]) > 60
        for label in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])):
            assert label in {"backend", "reason", "rank", "phase", "mode", "type"} | OUTSIDE_LABELS


def test_the_dashboards_panels_have_titles_units_and_places_of_their_own() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies over another"
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
