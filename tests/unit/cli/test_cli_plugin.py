"""`rekindle plugin list` and `flags`: what is there, why something is not, and what an engine needs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rekindle.skeleton import write

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}


def rekindle(*words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rekindle.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=CLEAN | environ, check=False)


@pytest.fixture
def plugin_dir(tmp_path: Path) -> Path:
    """A plugin, one of the same name that comes later, and one that cannot be loaded."""
    write("mine", tmp_path)
    later = write("mine", tmp_path / "away")
    later.rename(tmp_path / "newer")
    code = tmp_path / "newer" / "rekindle_mine"
    code.rename(code.with_name("newer_mine"))
    for path in (tmp_path / "newer").rglob("*"):
        if path.suffix in (".py", ".toml"):
            path.write_text(path.read_text().replace("rekindle_mine", "newer_mine"))
    broken = write("broken", tmp_path)
    (broken / "rekindle_broken" / "adapter.py").write_text("raise RuntimeError('[bold]no[/bold] luck')\n")
    (tmp_path / "away").rmdir()
    return tmp_path


def test_the_list_shows_everything_that_was_found_and_why_something_is_not_loaded(plugin_dir: Path) -> None:
    done = rekindle("plugin", "list", "-o", "json", "--plugin-dir", plugin_dir)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["plugins"]
    assert [entry["name"] for entry in found] == ["nano", "tensorrt_llm", "vllm", "broken", "mine", "mine"]
    nano, _, _, broken, first, second = found
    assert (nano["loaded"], nano["contract"], nano["engine"]) == (True, "1.0", "nano_engine 1")
    assert "lazy-restore" in nano["capabilities"]
    assert nano["source"].startswith("rekindle ")
    assert broken["problem"] == "RuntimeError: [bold]no[/bold] luck"
    assert [first["loaded"], second["loaded"]] == [False, True]
    assert first["problem"] == f"another one of this name is used: {plugin_dir / 'newer'}"


def test_the_table_has_the_same_and_takes_no_plugins_word_for_markup(plugin_dir: Path) -> None:
    done = rekindle("plugin", "list", REKINDLE_PLUGIN_DIR=str(plugin_dir))
    assert done.returncode == 0
    assert done.stderr == ""
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[0].split() == ["name", "version", "needs", "contract", "engine", "capabilities", "source", "loaded"]
    assert lines[4].endswith("no: RuntimeError: [bold]no[/bold] luck")
    assert lines[6].endswith("yes")


def test_flags_are_ready_for_a_shell(plugin_dir: Path) -> None:
    done = rekindle("plugin", "flags", "mine", "--plugin-dir", plugin_dir, "--run-dir", "/run/a b")
    assert done.returncode == 0, done.stderr
    environment, command = done.stdout.splitlines()
    path, run_dir = shlex.split(environment)[1:]
    assert run_dir == "REKINDLE_RUN_DIR=/run/a b"
    name, _, places = path.partition("=")
    assert name == "PYTHONPATH"
    first, second = places.split(os.pathsep)
    assert (Path(first) / "rekindle_plugins" / "contract").is_dir()
    assert second == str(plugin_dir / "newer")
    assert command == "command: --plugin newer_mine.shim:connect"


def test_flags_of_a_plugin_that_is_not_loaded_say_why(plugin_dir: Path) -> None:
    done = rekindle("plugin", "flags", "broken", "--plugin-dir", plugin_dir)
    assert done.returncode == 2
    assert "RuntimeError" in done.stderr
    assert rekindle("plugin", "flags", "nobody").returncode == 2


@pytest.mark.parametrize("words", [["plugin", "--help"], ["plugin", "test", "--help"], ["plugin", "list", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys\nfrom rekindle.cli import cli\n"
        f"try: cli.main({words!r}, prog_name='rekindle')\nexcept SystemExit as end: assert end.code == 0\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    for heavy in ("grpc", "google", "aiohttp", "numpy", "rich", "uvloop"):
        assert f"'{heavy}'" not in run.stdout.splitlines()[-1]
