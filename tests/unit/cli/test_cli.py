"""The command line as people meet it: help that costs nothing, messages, exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from rekindle.admin.server import AdminServer
from rekindle.cli import cli, main, options
from rekindle.cli.lazy import LazyCommand, LazyGroup
from status_samples import EMPTY, STATUS, FakeSource

HEAVY = {"grpc", "google", "aiohttp", "numpy", "rich", "uvloop", "prometheus_client"}
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}


def rekindle(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rekindle.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, env=CLEAN | environ, check=False)


@dataclass
class Outcome:
    returncode: int
    stderr: str


@pytest.fixture
def main_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The console script's own function in this process, where a process each would only be slow."""

    def run(*arguments: str | Path, **environ: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rekindle", *map(str, arguments)])
        for name in set(os.environ) - set(CLEAN):
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        return Outcome(int(ended.value.code or 0), capsys.readouterr().err)

    return run


def command_paths(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the program, groups and their commands included."""
    yield path
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from command_paths(command, (*path, name))
        else:
            yield (*path, name)


def modules_of_help(arguments: Sequence[str]) -> set[str]:
    """What a fresh interpreter has imported when it has printed a help text."""
    program = (
        "import sys\nfrom rekindle.cli import cli\n"
        f"try: cli.main({[*arguments, '--help']!r}, prog_name='rekindle')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: rekindle" in run.stdout
    return set(run.stdout.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    """One after the other in one process: the first that imports something is the one to blame."""
    program = """
        import contextlib, io, sys
        from rekindle.cli import cli
        for path in PATHS:
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
                cli.main([*path, "--help"], prog_name="rekindle")
            heavy = sorted({name.partition(".")[0] for name in sys.modules} & HEAVY)
            assert not heavy, f"{path} imports {heavy}"
            assert "Usage: rekindle" in shown.getvalue(), path
    """
    given = f"PATHS = {list(command_paths(cli))!r}\nHEAVY = {HEAVY!r}\n"
    run = subprocess.run(
        [sys.executable, "-c", given + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_the_programs_help_imports_click_and_next_to_nothing_else() -> None:
    """What counts is the time, which is spent on imports; and those are the same on a machine that is busy."""
    with_click = subprocess.run(
        [sys.executable, "-c", "import click, sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    more = modules_of_help([]) - set(with_click.stdout.split())
    assert {name for name in more if name.startswith("rekindle")} == {"rekindle", "rekindle.cli", "rekindle.cli.lazy"}
    assert len(more) < 25, sorted(more)


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    text = rekindle("--help").stdout
    for word in ("serve", "run", "status", "version", "3  unreachable"):
        assert word in text


def test_a_command_whose_module_is_absent_is_not_listed() -> None:
    group = LazyGroup(
        commands_by_name={
            "here": LazyCommand("rekindle.cli.version", "version", "…"),
            "absent": LazyCommand("rekindle.cli.no_such_module", "x", "…"),
        }
    )
    assert group.list_commands(None) == ["here"]  # type: ignore[arg-type]
    assert group.get_command(None, "absent") is None  # type: ignore[arg-type]


def test_version_prints_one_line() -> None:
    assert rekindle("version").stdout.startswith("rekindle 0.")


def test_status_without_a_sidecar_exits_3_with_a_hint(tmp_path: Path, main_here: Callable[..., Outcome]) -> None:
    for run in (
        main_here("status", "--socket", tmp_path / "x.sock"),
        main_here("status", REKINDLE_SOCKET=f"{tmp_path}/x.sock"),
    ):
        assert run.returncode == 3
        assert f"{tmp_path}/x.sock: " in run.stderr
        assert "hint: is `rekindle serve` running?" in run.stderr
    for run in (main_here("status", "--run-dir", tmp_path), main_here("status", REKINDLE_RUN_DIR=str(tmp_path))):
        assert run.returncode == 3
        assert f" at {tmp_path}/admin.sock: " in run.stderr


def test_a_flag_for_the_run_dir_comes_before_the_variable_for_the_socket(
    tmp_path: Path, main_here: Callable[..., Outcome]
) -> None:
    run = main_here("status", "--run-dir", tmp_path, REKINDLE_SOCKET="/elsewhere.sock")
    assert f" at {tmp_path}/admin.sock: " in run.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "No such command"),
        (["serve", "--store-size", "lots"], "error: read flag --store-size: 'lots' is not a size"),
        (["run", "--store-size", "lots", "--", "true"], "error: read flag --store-size"),
        (["run"], "Missing argument"),
        (["serve", "--config", "/absent.toml"], "error: read file /absent.toml: No such file"),
    ],
)
def test_a_wrong_command_line_exits_2(arguments: list[str], word: str, main_here: Callable[..., Outcome]) -> None:
    run = main_here(*arguments)
    assert run.returncode == 2
    assert word in run.stderr
    assert "Traceback" not in run.stderr


def test_status_shows_a_running_sidecar_and_its_readiness(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    source = FakeSource()

    async def ask_twice() -> tuple[subprocess.CompletedProcess[str], ...]:
        server = AdminServer(source, path)
        await server.start()
        try:
            shown = await asyncio.to_thread(rekindle, "status", "--socket", path)
            source.value = EMPTY
            told = await asyncio.to_thread(rekindle, "status", "-o", "json", "--socket", path)
        finally:
            await server.stop(grace_s=0)
        return shown, told

    shown, told = asyncio.run(ask_twice())
    assert shown.returncode == 0
    assert "running" in shown.stdout
    assert told.returncode == 4
    assert json.loads(told.stdout) == json.loads(json.dumps(EMPTY.to_json()))
    assert STATUS != EMPTY


def test_serve_starts_answers_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    run_dir, store_dir = tmp_path / "run", tmp_path / "store"
    flags = ["--run-dir", run_dir, "--store-dir", store_dir, "--store-size", "16MiB", "--http", ":0", "--log-json"]
    command = [sys.executable, "-m", "rekindle.cli", "serve", *map(str, flags)]
    environ = CLEAN | {"REKINDLE_STORE_SZE": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr is not None
        events = []
        for line in process.stderr:  # ends with the process, and the test has a timeout
            events.append(json.loads(line))
            if events[-1]["event"] == "serving":
                break
        assert (run_dir.stat().st_mode & 0o777, (run_dir / "admin.sock").is_socket()) == (0o700, True)
        second = rekindle("serve", *flags)
        process.send_signal(signal.SIGTERM)
        events += [json.loads(line) for line in process.stderr]
        assert process.wait(10) == 0
    names = [event["event"] for event in events]
    assert names[0] == "configuration"
    assert "REKINDLE_STORE_SIZE" in events[0]["problem"]
    assert names[-2:] == ["stopping", "stopped"]
    assert second.returncode not in (0, 1)
    assert second.stderr.splitlines()[-2].startswith("error: ")
    assert second.stderr.splitlines()[-1].startswith("hint: ")
    assert not (run_dir / "admin.sock").exists()


def test_flags_given_to_run_reach_serve_unchanged() -> None:
    flags = {"store_size": "1GiB", "log_json": False, "http": "off", "run_dir": None}
    assert options.as_arguments(Path("/a.toml"), flags) == [
        *("--config", "/a.toml"),
        *("--store-size", "1GiB"),
        *("--http", "off"),
        "--no-log-json",
    ]
