"""``rekindle run`` with tiny engines: restarts, environment, stops, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rekindle.cli.child import outcome
from rekindle.cli.supervisor import Pauses, Policy

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}


def start(folder: Path, program: str, *flags: str) -> subprocess.Popen[str]:
    """``rekindle run`` of a Python program. A mark in the environment finds every process that came of it."""
    command = [sys.executable, "-m", "rekindle.cli", "run", "--run-dir", str(folder / "run")]
    command += ["--store-dir", str(folder / "store"), "--store-size", "16MiB", "--http", "off"]
    command += ["--restart-delay", "0.05", *flags, "--", sys.executable, "-c", textwrap.dedent(program)]
    environ = CLEAN | {"TEST_MARK": str(folder), "FOLDER": str(folder)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)


def left_behind(folder: Path) -> list[int]:
    mark = f"TEST_MARK={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # ended meanwhile
            continue
    return found


@pytest.fixture(autouse=True)
def _nothing_survives(tmp_path: Path) -> Iterator[None]:
    """Also when a test fails."""
    yield
    for pid in left_behind(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to pass"
        time.sleep(0.02)


def test_an_engine_that_kills_itself_twice_is_restarted_and_then_done(tmp_path: Path) -> None:
    engine = """
        import os, pathlib, signal, subprocess, sys
        import rekindle_plugins.contract
        starts = pathlib.Path(os.environ["FOLDER"], "starts")
        with starts.open("a") as file:
            print(os.environ["REKINDLE_RUN_DIR"], os.environ["PYTHONPATH"].split(":")[0], os.getpgrp(), file=file)
        if len(starts.read_text().splitlines()) <= 2:
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # a straggler
            os.kill(os.getpid(), signal.SIGKILL)
    """
    process = start(tmp_path, engine)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert left_behind(tmp_path) == []
    lines = [line.removeprefix("rekindle run: ") for line in said.splitlines() if line.startswith("rekindle run: ")]
    started = [line.partition(": pid")[0] for line in lines if "started: pid" in line]
    assert started == ["sidecar started", *3 * ["engine started"]]
    assert [line.rpartition(" in ")[2] for line in lines if "was killed by SIGKILL" in line] == ["0.05 s", "0.1 s"]
    assert lines[-2:] == ["engine exited with 0, not restarted", "sidecar exited with 0"]
    starts = [line.split() for line in (tmp_path / "starts").read_text().splitlines()]
    assert {run_dir for run_dir, _, _ in starts} == {str(tmp_path / "run")}
    assert all(os.listdir(folder) for _, folder, _ in starts)
    assert len({group for _, _, group in starts}) == 3


def test_sigterm_reaches_the_engine_first_and_its_exit_code_is_ours(tmp_path: Path) -> None:
    engine = """
        import os, pathlib, signal, socket, sys, time
        def end(*_):
            socket.socket(socket.AF_UNIX).connect(os.environ["REKINDLE_RUN_DIR"] + "/admin.sock")  # it lives still
            sys.exit(7)
        signal.signal(signal.SIGTERM, end)
        pathlib.Path(os.environ["FOLDER"], "up").touch()
        time.sleep(60)
    """
    process = start(tmp_path, engine)
    until((tmp_path / "up").exists)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 7, said
    assert "got SIGTERM, stopping" in said
    assert left_behind(tmp_path) == []


def test_an_engine_that_ignores_sigterm_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    engine = """
        import os, pathlib, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        pathlib.Path(os.environ["FOLDER"], "up").touch()
        time.sleep(60)
    """
    process = start(tmp_path, engine, "--grace", "0.2")
    until((tmp_path / "up").exists)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL, said
    assert "did not end within 0.2 s" in said
    assert left_behind(tmp_path) == []


def test_a_sidecar_that_dies_is_restarted_and_the_engine_untouched(tmp_path: Path) -> None:
    engine = """
        import os, pathlib, time
        folder = pathlib.Path(os.environ["FOLDER"])
        (folder / "up").touch()
        while not (folder / "enough").exists(): time.sleep(0.02)
    """
    process = start(tmp_path, engine)
    until((tmp_path / "up").exists)
    assert process.stderr is not None
    first = next(line for line in process.stderr if "sidecar started" in line)
    os.kill(int(first.split()[-1]), signal.SIGKILL)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "sidecar started" in line:
            break
    until(lambda: listens(tmp_path / "run" / "admin.sock"))
    (tmp_path / "enough").touch()
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert [line for line in lines if "sidecar was killed by SIGKILL" in line]
    assert "engine started: pid" not in rest
    assert left_behind(tmp_path) == []


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


def test_a_live_sidecar_is_used_and_left_running(tmp_path: Path) -> None:
    engine = """
        import os, pathlib, time
        folder = pathlib.Path(os.environ["FOLDER"])
        (folder / "up").touch()
        while not (folder / "enough").exists(): time.sleep(0.02)
    """
    first = start(tmp_path, engine)
    until((tmp_path / "up").exists)
    second = start(tmp_path, "pass")
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert "sidecar is running already" in said
    assert "sidecar started" not in said
    assert listens(tmp_path / "run" / "admin.sock")
    (tmp_path / "enough").touch()
    first.communicate(timeout=60)
    assert left_behind(tmp_path) == []


def test_a_sidecar_that_cannot_start_ends_the_run_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    process = start(tmp_path, "raise SystemExit(9)")
    _, said = process.communicate(timeout=60)
    assert process.returncode not in (0, 9)
    assert "error: " in said
    assert "so neither did the engine" in said
    assert left_behind(tmp_path) == []


def test_a_program_that_is_not_there_exits_2_and_stops_the_sidecar(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rekindle.cli", "run", "--run-dir", f"{tmp_path}/run", "--http", "off"]
    command += ["--store-dir", f"{tmp_path}/store", "--store-size", "16MiB", "--", "/no/such/engine"]
    environ = CLEAN | {"TEST_MARK": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)
    assert run.returncode == 2
    assert "error: start /no/such/engine: No such file" in run.stderr
    assert left_behind(tmp_path) == []


def test_pauses_double_up_to_the_limit_and_begin_again_after_a_healthy_life() -> None:
    pauses = Pauses(Policy())
    assert [pauses.after(1.0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [pauses.after(60.0), pauses.after(1.0)] == [0.5, 1]


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exited with 0"), (-9, "was killed by SIGKILL"), (-99, "was killed by signal 99")]
)
def test_outcomes_are_told_in_words(code: int, text: str) -> None:
    assert outcome(code) == text
