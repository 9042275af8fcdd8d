"""`rekindle plugin new`: what it writes works, whatever it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rekindle.skeleton import write
from rekindle_plugins.contract import ConfigError


def rekindle(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rekindle.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_a_new_plugins_own_tests_pass(tmp_path: Path) -> None:
    """The kit is run on it by the document's test."""
    folder = write("two_words9", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_a_new_plugin_is_typed(tmp_path: Path) -> None:
    folder = write("typed", tmp_path)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--config-file=", "-p"]
    done = subprocess.run([*command, "rekindle_typed"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_word_of_the_template_is_left(tmp_path: Path) -> None:
    folder = write("other", tmp_path)
    for path in folder.rglob("*"):
        text = str(path.relative_to(folder)) + (path.read_text() if path.is_file() else "")
        assert "myengine" not in text.lower(), path


@pytest.mark.parametrize("name", ["Upper", "9nine", "a-b", "", "../up", "x" * 40])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case"):
        write(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    write("mine", tmp_path)
    with pytest.raises(ConfigError, match="there already"):
        write("mine", tmp_path)


def test_a_failed_check_is_exit_code_1_and_says_what_was_seen(tmp_path: Path) -> None:
    folder = write("faulty", tmp_path)
    shim = folder / "rekindle_faulty" / "shim.py"
    shim.write_text(shim.read_text().replace("self._leader.raise_pages(page_ids)", "pass"))
    done = rekindle("plugin", "test", folder, "--check", "overwrite", "--check", "lazy-restore")
    assert done.returncode == 1, done.stderr
    first, second, last = done.stdout.splitlines()
    assert first.split()[:2] == ["failed", "overwrite"]
    assert "its bytes changed under that epoch" in first
    assert second.split()[:2] == ["not-applicable", "lazy-restore"]
    assert last == "0 passed, 1 failed, 1 not applicable"


def test_a_plugin_that_cannot_be_tested_is_exit_code_2(tmp_path: Path) -> None:
    folder = write("undriven", tmp_path)
    toml = folder / "plugin.toml"
    toml.write_text("\n".join(line for line in toml.read_text().splitlines() if not line.startswith("driver")))
    done = rekindle("plugin", "test", folder)
    assert done.returncode == 2
    assert "it names no driver" in done.stderr
    done = rekindle("plugin", "test", folder, "--check", "lief")
    assert done.returncode == 2
    assert "did you mean life" in done.stderr
