"""`rekindle top` in a real terminal, before a real sidecar whose engine works, dies and comes back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from driving import Pod
from driving.reference import prompt
from driving.terminal import Terminal

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}


def command(pod: Pod, *flags: str) -> list[str]:
    return [sys.executable, "-m", "rekindle.cli", "top", "--run-dir", str(pod.sidecar.run_dir), *flags]


@pytest.fixture
def watch() -> Iterator[Callable[..., Terminal]]:
    """Opens terminals with `rekindle top`, and closes them after the test."""
    with ExitStack() as opened:

        def open_terminal(pod: Pod, width: int = 80, height: int = 24) -> Terminal:
            return opened.enter_context(Terminal(command(pod, "--interval", "0.2"), CLEAN, width, height))

        yield open_terminal


def test_the_view_follows_an_engine_through_its_death_and_q_ends_it(pod: Pod, watch: Callable[..., Terminal]) -> None:
    terminal = watch(pod)
    terminal.when("● ready", "no engine is attached", "no engine has died")
    assert terminal.in_alternate_screen
    engine = pod.engine()
    engine.ask(prompt(600))
    terminal.when("nano 1", "running", "of 16.0 MiB", "39 of ")
    engine.kill()
    terminal.when("no engine is attached", "#1 under way", "none yet", "memory let go")
    engine.start()
    screen = terminal.when("running", "#1 finished", "39 pages put back (624 tokens)", "restarts 1", "warm")
    assert all(len(line) <= 80 for line in screen.splitlines())
    terminal.keys("q")
    left = terminal.when("ended with 0")
    assert "traffic" not in left, "what was on the screen before is there again"
    assert not terminal.in_alternate_screen
    terminal.keys("h", "i", "Enter")
    terminal.when("heard hi")


def test_work_makes_rates_and_charts(pod: Pod, watch: Callable[..., Terminal]) -> None:
    engine = pod.engine()
    terminal = watch(pod, 140, 40)
    terminal.when("running", "steps/s", "step age", "shim/step", "idle")
    for seed in range(100):
        engine.ask(prompt(300, seed), 8)
        screen = terminal.screen()
        if re.search(r"checkpoint +[1-9][\d,]* pages/s +[1-9][\d,.]* [KM]iB/s", screen) and set("▃▄▅▆▇█") & set(screen):
            break
    else:
        pytest.fail(f"no rate was shown:\n{screen}")


def test_a_sidecar_that_goes_away_is_waited_for(pod: Pod, watch: Callable[..., Terminal]) -> None:
    pod.engine().ask(prompt(100))
    terminal = watch(pod)
    terminal.when("● ready", "running")
    pod.sidecar.kill()
    screen = terminal.when("● sidecar unreachable, retrying")
    assert "of 16.0 MiB" in screen, "what it said last is still there"
    pod.sidecar.start()
    terminal.when("● ready", "running")
    assert "unreachable" not in terminal.screen()


def test_it_may_be_started_before_the_sidecar(make_pod: Callable[..., Pod], watch: Callable[..., Terminal]) -> None:
    pod = make_pod()
    terminal = watch(pod)
    terminal.when("● sidecar unreachable, retrying", "there is no such socket")
    terminal.keys("x")
    pod.sidecar.start()
    terminal.when("● ready")
    terminal.keys("C-c")
    terminal.when("ended with 0")
    assert not terminal.in_alternate_screen


def test_a_hung_sidecar_does_not_keep_q_waiting(pod: Pod, watch: Callable[..., Terminal]) -> None:
    terminal = watch(pod)
    terminal.when("● ready")
    pod.sidecar.freeze()
    terminal.when("● sidecar unreachable, retrying")
    terminal.keys("q")
    terminal.when("ended with 0")
    pod.sidecar.thaw()


def test_the_view_fits_the_terminal_when_that_changes(pod: Pod, watch: Callable[..., Terminal]) -> None:
    pod.engine()
    terminal = watch(pod, 80, 24)
    terminal.when("running", "requests")
    assert "shim/step" not in terminal.screen()
    terminal.resize(140, 40)
    terminal.when("shim/step")
    terminal.resize(80, 24)
    terminal.when("q quit", "requests", "restarts 0")
    assert "shim/step" not in terminal.screen()


def test_once_or_without_a_terminal_it_is_one_picture(pod: Pod) -> None:
    pod.engine().ask(prompt(200))
    for flags in (("--once",), ()):
        run = subprocess.run(
            command(pod, "--interval", "0.1", *flags), env=CLEAN, capture_output=True, text=True, timeout=60, check=True
        )
        assert run.stdout.count("traffic") == 1
        assert "running" in run.stdout
        assert "\x1b" not in run.stdout
    with Terminal(command(pod, "--interval", "0.1", "--once"), CLEAN) as terminal:
        screen = terminal.when("ended with 0")
        assert "traffic" in screen
        assert not terminal.in_alternate_screen
    pod.sidecar.kill()
    away = subprocess.run(command(pod), env=CLEAN, capture_output=True, text=True, timeout=60, check=False)
    assert away.returncode == 3
    assert "hint: is `rekindle serve` running?" in away.stderr
