"""Recovery reports: what is told in which order, and what lies on disk for the next sidecar."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rekindle.keeper.reports import Reports
from rekindle.lifecycle.status import RecoveryReport
from rekindle.recovery_files import KEPT, parse_report, read_reports, write_report

FIGURES = {"pages_committed": 9, "pages_salvaged": 1, "salvage_s": 0.02, "release_s": 0.03}


def test_a_recovery_is_told_from_the_death_to_the_restored_pages(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    noticed_at = time.monotonic()
    number = reports.died("identity", "old", "gone", noticed_at, 0.004)
    assert reports.last is None, "what a salvage will come to is not known yet"
    reports.released(number, **FIGURES)
    assert reports.attached("identity", "new", 9, ())
    reports.asked("identity")
    reports.restored("identity", 8, 128, {"checksum": 1}, 0.5)
    report = reports.last
    assert report is not None
    assert (report.number, report.died_instance, report.started_instance) == (1, "old", "new")
    assert (report.detect_s, report.salvage_s, report.release_s) == (0.004, 0.02, 0.03)
    assert report.down_s is not None
    assert report.asked_s is not None
    assert report.warm_s is not None
    assert 0 <= report.down_s <= report.asked_s <= report.warm_s
    assert report.began_unix is not None
    assert read_reports(tmp_path) == [report]
    assert {phase: sum(times.counts) for phase, times in reports.phases.items()} == dict.fromkeys(reports.phases, 1)
    assert reports.finished == 1


def test_an_engine_that_comes_before_the_salvage_is_over_belongs_to_the_same_recovery(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    number = reports.died("identity", "old", "gone", time.monotonic(), None)
    assert reports.attached("identity", "new", 0, ())
    reports.released(number, **FIGURES)
    reports.restored("identity", 8, 128, {}, 0.5)
    (report,) = reports.all()
    assert (report.started_instance, report.pages_committed, report.pages_restored) == ("new", 9, 8)
    assert report.down_s is not None
    assert report.detect_s is None


def test_without_a_death_a_report_begins_with_the_engine_that_finds_pages(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    assert not reports.attached("identity", "new", 0, ())
    assert reports.all() == []
    assert not reports.attached("identity", "new", 5, ())
    reports.restored("identity", 5, 80, {}, 0.5)
    (report,) = reports.all()
    assert (report.died_instance, report.down_s, report.pages_restored) == (None, None, 5)
    assert report.warm_s is not None


def test_numbers_go_on_after_a_restart_of_the_sidecar_and_files_stay_few(tmp_path: Path) -> None:
    for start in range(3):
        reports = Reports(tmp_path)
        for count in range(20):
            number = reports.died("identity", f"engine {count}", "gone", time.monotonic(), None)
            assert number == 20 * start + count + 1
            reports.released(number, **FIGURES)
        assert len(reports.all()) == 20
    assert [report.number for report in read_reports(tmp_path)] == list(range(61 - KEPT, 61))


def test_a_full_run_directory_stops_no_recovery(tmp_path: Path) -> None:
    reports = Reports(tmp_path / "absent")
    reports.released(reports.died("identity", "old", "gone", time.monotonic(), None), **FIGURES)
    assert reports.last is not None
    assert reports.last.release_s == 0.03


def test_files_that_are_no_reports_are_left_out(tmp_path: Path) -> None:
    good = RecoveryReport(7, "identity", mismatches=("dtype",), pages_rejected={"checksum": 1})
    write_report(tmp_path, good)
    for place, text in enumerate(("", "[]", "{}", '{"number": -1, "identity": "x"}', "\x00" * 99, "[" * 100_000)):
        (tmp_path / f"recovery-{place}.json").write_text(text)
    assert read_reports(tmp_path) == [good]
    assert read_reports(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", True),
        ("pages_restored", 1.5),
        ("reason", None),
        ("died_instance", 3),
        ("pages_rejected", {"checksum": "many"}),
        ("mismatches", "dtype"),
        ("down_s", "late"),
        ("down_s", -1),
        ("warm_s", float("nan")),
    ],
)
def test_a_field_of_the_wrong_type_makes_it_no_report(field: str, value: object) -> None:
    data = RecoveryReport(1, "identity").to_json() | {field: value}
    with pytest.raises(ValueError, match=field):
        parse_report(json.dumps(data))


def test_a_newer_versions_fields_are_left_out() -> None:
    report = RecoveryReport(1, "identity")
    assert parse_report(json.dumps(report.to_json() | {"new": 1})) == replace(report)
