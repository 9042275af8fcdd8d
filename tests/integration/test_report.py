"""`rekindle report` of a real recovery, with the sidecar and after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from driving import Pod
from driving.reference import prompt

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}


def rekindle(pod: Pod, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rekindle.cli", *arguments, "--run-dir", str(pod.sidecar.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=CLEAN, cwd=pod.directory)


def test_a_recovery_is_drawn_from_death_to_warm(pod: Pod) -> None:
    nothing = rekindle(pod, "report")
    assert nothing.returncode == 5
    assert "a report is made when an engine dies" in nothing.stderr
    engine = pod.engine()
    engine.ask(prompt(600))
    pod.sidecar.when_idle()
    engine.kill()
    pod.sidecar.when_released()
    half = rekindle(pod, "report", "-o", "table")
    assert "none yet" in half.stdout
    engine.start()
    pod.sidecar.engine()
    drawn = rekindle(pod, "report")
    assert drawn.returncode == 0
    assert drawn.stdout.startswith("<!doctype html>")
    for words in ("Recovery #1", ">39<", "pages put back", ">624<", "tokens saved", "death noticed", "memory let go"):
        assert words in drawn.stdout, words
    for kind in ("salvage", "release", "down", "attach", "restore"):
        assert f'class="bar {kind}"' in drawn.stdout
    told = json.loads(rekindle(pod, "report", "1", "-o", "json").stdout)
    assert told["pages_restored"] == 39
    assert 0 <= told["salvage_s"] <= told["release_s"] <= told["down_s"] <= told["asked_s"] <= told["warm_s"]


def test_older_reports_stay_readable_after_the_sidecars_end_and_numbers_go_on(pod: Pod) -> None:
    engine = pod.engine()
    for _ in range(2):
        engine.ask(prompt(100))
        pod.sidecar.when_idle()
        engine.restart()
        pod.sidecar.engine()
    engine.kill()
    pod.sidecar.when_released()
    pod.sidecar.kill()
    away = rekindle(pod, "report", "-o", "json", "--output", "last.json")
    assert away.returncode == 0
    assert "wrote last.json" in away.stderr
    assert json.loads(Path(pod.directory, "last.json").read_text())["number"] == 3
    assert json.loads(rekindle(pod, "report", "2", "-o", "json").stdout)["pages_restored"] > 0
    missing = rekindle(pod, "report", "9")
    assert missing.returncode == 5
    assert "there are: 1, 2, 3" in missing.stderr
    pod.sidecar.start()
    pod.engine()
    assert pod.sidecar.recovery().number == 4
