"""Five ways to print an answer, asking before something is taken away, following long work, completion."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
import pytest
from click.testing import CliRunner
from rekindle.cli import cli, output
from rekindle.cli.output import Column, show_rows, show_value
from rekindle.cli.progress import follow, wait
from rekindle.cli.target import confirm
from rekindle.lifecycle.progress import Progress
from rekindle_plugins.contract.errors import UnavailableError
from ruamel.yaml import YAML


@dataclass(frozen=True)
class Row:
    name: str
    size_bytes: int
    secret: tuple[int, ...] = (1, 2)


ROWS = [Row("first", 5), Row("second é", 1 << 20)]
COLUMNS = (
    Column("name", lambda row: row.name),
    Column("size", lambda row: output.size(row.size_bytes), is_number=True),
    Column("all of it", lambda row: str(row.secret), is_wide=True),
)


def printed(how: str, capsys: pytest.CaptureFixture[str], rows: list[Row] = ROWS) -> str:
    show_rows(rows, COLUMNS, how, "nothing is there", ["secret"])
    return capsys.readouterr().out


def test_a_table_in_a_pipe_has_plain_columns_and_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed("table", capsys) == "NAME         SIZE\nfirst         5 B\nsecond é  1.0 MiB\n"
    assert printed("wide", capsys).splitlines()[1].endswith("(1, 2)")
    assert printed("table", capsys, []) == "nothing is there\n"


def test_a_table_on_a_terminal_is_boxed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    text = printed("table", capsys)
    assert "╭" in text
    assert "second é" in text


def test_json_yaml_and_jsonl_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [{"name": "first", "size_bytes": 5}, {"name": "second é", "size_bytes": 1 << 20}]
    assert json.loads(printed("json", capsys)) == wanted
    assert [json.loads(line) for line in printed("jsonl", capsys).splitlines()] == wanted
    assert YAML(typ="safe", pure=True).load(printed("yaml", capsys)) == wanted
    assert printed("json", capsys, []) == "[]\n"
    assert printed("jsonl", capsys, []) == ""


def test_one_value_is_lines_for_people_and_an_object_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    show_value(ROWS[0], [("name", "first"), ("size", "5 B")], "table")
    assert capsys.readouterr().out == "name  first\nsize  5 B\n"
    for how in ("json", "jsonl"):
        show_value(ROWS[0], [], how)
        assert json.loads(capsys.readouterr().out) == {"name": "first", "size_bytes": 5, "secret": [1, 2]}


@pytest.mark.parametrize(("seconds", "text"), [(-1e9, "long ago"), (0.0, "0 ms ago")])
def test_a_moment_is_told_as_how_long_ago_it_was(monkeypatch: pytest.MonkeyPatch, seconds: float, text: str) -> None:
    monkeypatch.setattr(output.time, "time", lambda: 1.8e9)
    assert output.ago(1.8e9 + seconds if seconds > -1e9 else 5.0) == text
    assert output.ago(1.8e9 + 60) == "0 ms ago", "a clock that was set back is no reason for nonsense"


def test_nobody_is_asked_where_nobody_could_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    confirm("Drop it?", yes=True)
    with pytest.raises(click.UsageError, match="say --yes"):
        confirm("Drop it?", yes=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for answer, refused in (("y\n", False), ("n\n", True)):
        monkeypatch.setattr(click.termui, "visible_prompt_func", lambda _, answer=answer: answer.strip())
        if refused:
            with pytest.raises(click.Abort):
                confirm("Drop it?", yes=False)
        else:
            confirm("Drop it?", yes=False)


DESTRUCTIVE = [
    ["session", "evict", "abcd"],
    ["session", "import", "file", "--over"],
    ["store", "evict", "--all"],
    ["drain"],
]


@pytest.mark.parametrize("arguments", DESTRUCTIVE)
def test_what_takes_something_away_needs_a_yes(arguments: list[str]) -> None:
    refused = CliRunner().invoke(cli, [*arguments, "--socket", "/absent/admin.sock"])
    assert (refused.exit_code, "--yes" in refused.output) == (2, True)
    tried = CliRunner().invoke(cli, [*arguments, "--yes", "--socket", "/absent/admin.sock"])
    assert isinstance(tried.exception, UnavailableError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["session", "export", "file"],
        ["session", "export", "abcd", "file", "--all"],
        ["store", "evict"],
        ["store", "evict", "--all", "--pages", "3"],
        ["store", "resize", "lots"],
        ["page", "list", "-n", "0"],
        ["log-level", "loud"],
        ["session", "list", "-o", "xml"],
    ],
)
def test_a_command_line_that_makes_no_sense_is_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, arguments).exit_code == 2


def test_following_gives_the_result_and_shows_bars_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def steps() -> Iterator[Progress | str]:
        yield Progress(1, 0, 5)
        yield Progress(2, 4, 10)
        yield "done"

    assert follow("verifying", steps()) == "done"
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert follow("verifying", steps()) == "done"
    with pytest.raises(UnavailableError, match="without a result"):
        follow("verifying", iter([Progress(1, 2, 3)]))
    assert wait("checkpointing", iter([Progress(1, 2, 3)])) == Progress(1, 2, 3)
    assert wait("checkpointing", iter([])) == Progress(0, 0, 0)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_rekindle_back(shell: str) -> None:
    script = CliRunner().invoke(cli, ["completion", shell]).output
    assert "_REKINDLE_COMPLETE" in script
    assert f"{shell}_complete" in script


def test_the_shell_is_told_commands_and_options_without_running_any_of_them() -> None:
    program = (
        "import os, sys\n_, words, at = sys.argv\n"
        "os.environ.update(_REKINDLE_COMPLETE='bash_complete', COMP_WORDS=words, COMP_CWORD=at)\n"
        "from rekindle.cli import cli\n"
        "try: cli.main([], prog_name='rekindle')\nexcept SystemExit: pass\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'grpc', 'rich', 'numpy', 'google'}))"
    )

    def complete(words: str, at: int) -> list[str]:
        command = [sys.executable, "-c", program, words, str(at)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        *offered, heavy = run.stdout.splitlines()
        assert heavy == "[]"
        return [line.partition(",")[2] for line in offered]

    assert complete("rekindle s", 1) == ["serve", "status", "session", "store", "stage"]
    assert complete("rekindle session ", 2) == ["evict", "export", "import", "list", "pin", "show", "unpin"]
    assert "--show-tokens" in complete("rekindle session show --s", 3)


def test_every_listed_command_has_help_of_its_own(main_help: Callable[[list[str]], str]) -> None:
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.help, name
        for sub in command.list_commands(click.Context(command)) if isinstance(command, click.Group) else ():
            assert main_help([name, sub]), f"{name} {sub}"


@pytest.fixture
def main_help() -> Callable[[list[str]], str]:
    return lambda arguments: CliRunner().invoke(cli, [*arguments, "--help"]).output
