"""`rekindle demo` as a newcomer runs it: real processes, and the figures it prints."""

from __future__ import annotations

import json
import subprocess
import sys


def test_the_demo_goes_on_with_the_same_tokens_and_computes_less_than_without() -> None:
    argv = [sys.executable, "-m", "rekindle.cli", "demo", "--sessions", "2", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    ours, without = json.loads(done.stdout)["runs"]
    assert ours["with_rekindle"]
    assert not without["with_rekindle"]
    assert ours["same_tokens"]
    assert without["same_tokens"]
    assert ours["pages_restored"] > 0
    # Less than a page (16 tokens) of each conversation, and the page being filled.
    assert ours["prompt_tokens_computed_again"] <= 2 * 2 * 16
    assert without["prompt_tokens_computed_again"] >= 2 * 1600


def test_the_demo_draws_both_runs_on_one_axis() -> None:
    argv = [sys.executable, "-m", "rekindle.cli", "demo", "--sessions", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "with Rekindle" in done.stdout
    assert "✗" in done.stdout
    assert "every token as in an uninterrupted run" in done.stdout
