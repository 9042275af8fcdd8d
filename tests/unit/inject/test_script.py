"""Scripts for a shell: which are understood, and that a real shell reads a changed one as it was meant."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle.inject.script import Script, scripts_of
from rekindle_plugins.contract.errors import ConfigError

FLAG = ("--kv-transfer-config", '{"kv_connector":"It\'s"}')


def commands(script: str, shell: tuple[str, ...] = ("sh", "-c")) -> list[list[str]]:
    found = scripts_of({"command": list(shell), "args": [script]})
    return [[word.text for word in command.words] for command in found]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("vllm serve m --port 8000", [["vllm", "serve", "m", "--port", "8000"]]),
        ("exec vllm serve m", [["exec", "vllm", "serve", "m"]]),
        ("HOME=/x A= vllm serve $MODEL", [["vllm", "serve", "$MODEL"]]),
        ("vllm serve \\\n  m \\\n  --x 1\n", [["vllm", "serve", "m", "--x", "1"]]),
        ("# 1\nset -e\ncd /a && vllm serve m; ls", [["set", "-e"], ["cd", "/a"], ["vllm", "serve", "m"], ["ls"]]),
        (
            """vllm "a b" 'c "d"' "e\\"f\\g" h\\ i j'k'l "" # end""",
            [["vllm", "a b", 'c "d"', 'e"f\\g', "h i", "jkl", ""]],
        ),
        ('vllm serve ${MODEL} "$A/b" x#y', [["vllm", "serve", "${MODEL}", "$A/b", "x#y"]]),
        ("vllm serve m \\\n  # a comment ends it\n", [["vllm", "serve", "m"]]),
        ("", []),
        ("A=1", []),
    ],
)
def test_simple_commands_are_read_as_a_shell_reads_them(script: str, expected: list[list[str]]) -> None:
    assert commands(script) == expected


@pytest.mark.parametrize(
    "script",
    [
        "vllm serve m | tee log",
        "vllm serve m > log",
        "vllm serve m 2>&1",
        "vllm serve m &",
        "vllm serve $(cat m)",
        "vllm serve `cat m`",
        "vllm serve $((1+1))",
        'vllm serve "$(cat m)"',
        'vllm serve "${M:-m}"',
        "vllm serve $@",
        "if true; then vllm serve m; fi",
        "while true; do vllm serve m; done",
        "{ vllm serve m; }",
        "(vllm serve m)",
        "vllm serve m*",
        "vllm serve ~/m",
        "vllm serve 'm",
        'vllm serve "m',
        "vllm serve m\\",
        "eval vllm serve m",
        "case x in x) vllm serve m;; esac",
        "vllm serve m;; x",
        "vllm serve m || exit 1",
        "PYTHONPATH=/mine vllm serve m",
        "export REKINDLE_RUN_DIR=/x; vllm serve m",
        "f() { vllm serve m; }; f",
        "cat <<END\nvllm serve m\nEND",
    ],
)
def test_what_a_shell_might_read_otherwise_is_not_understood(script: str) -> None:
    assert commands(script) == []


@pytest.mark.parametrize(
    ("container", "where"),
    [
        ({"command": ["/bin/bash", "-exc", "vllm serve m"]}, ("command", 2)),
        ({"command": ["bash", "-e", "-o", "-c"], "args": ["vllm serve m", "name"]}, ("args", 0)),
        ({"command": ["bash", "-c", "--"], "args": "vllm serve m"}, ("args", 0)),
    ],
)
def test_the_script_is_the_word_after_the_flag(container: dict[str, object], where: tuple[str, int]) -> None:
    (script,) = scripts_of(container)
    assert (script.key, script.index) == where


@pytest.mark.parametrize("container", [{}, {"command": ["sh", "start.sh"]}, {"command": ["vllm", "serve", "-c", "x"]}])
def test_what_is_no_script_has_no_commands(container: dict[str, object]) -> None:
    assert scripts_of(container) == []


def run(folder: Path, script: str) -> list[list[str]]:
    """The words that each command of the script got, by a real shell; `engine` and `other` are on its path."""
    noted = folder / "noted"
    noted.write_text("")
    for name in ("engine", "other"):
        program = folder / name
        if not program.exists():
            program.write_text(
                f"#!{sys.executable}\nimport json, sys\nopen({str(noted)!r}, 'a').write(json.dumps(sys.argv) + '\\n')\n"
            )
            program.chmod(0o755)
    environment = {"PATH": str(folder), "MODEL": "a model"}
    subprocess.run(["/bin/sh", "-c", script], env=environment, check=True, timeout=60)
    return [["engine" if word[0].endswith("engine") else "other", *word[1:]] for word in map(json.loads, noted.open())]


WORDS = st.lists(st.text(st.sampled_from("ab =-#'\"\\$`;&|\t\n*{é"), max_size=6), max_size=4)


@settings(max_examples=15, deadline=None)
@given(words=WORDS, value=st.text(st.sampled_from("ab '\"\\$\n;é"), max_size=5))
def test_a_shell_gets_the_words_and_the_new_ones(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], value: str
) -> None:
    folder = tmp_path_factory.mktemp("shell")
    text = f"other x; engine --port 8000 {shlex.join(words)} \\\n  --last # comment\nother $MODEL"
    found = scripts_of({"command": ["sh", "-c", text]})
    assert [word.text for word in found[1].words] == ["engine", "--port", "8000", *words, "--last"]
    old = [word.text for word in found[1].words]
    new = [*old[:2], value, *old[3:], *FLAG]
    changed = found[1].with_words(new)
    assert run(folder, changed) == [["other", "x"], new, ["other", "a", "model"]]
    assert changed.endswith(" # comment\nother $MODEL")


def only(script: str) -> Script:
    (found,) = scripts_of({"command": ["sh", "-c", script]})
    return found


@pytest.mark.parametrize("word", ['"{$POD_NAME}"', "${CONFIG}", "a'b'$C", '"\\"$C\\""', '--x="$C"'])
def test_a_word_with_a_variable_in_it_is_not_changed(word: str) -> None:
    script = only(f"engine --config {word} --last")
    words = [found.text for found in script.words]
    assert script.with_words([*words, "--more"]) == f"engine --config {word} --last --more"
    with pytest.raises(ConfigError, match="variable") as refused:
        script.with_words([*words[:2], "new", "--last"])
    assert refused.value.hint.endswith("by hand: new")


@pytest.mark.parametrize("word", ["'{$POD_NAME}'", '"\\$POD_NAME"', "\\$POD_NAME"])
def test_a_word_whose_dollar_is_one_is_changed(word: str) -> None:
    script = only(f"engine $BEFORE {word} --last")
    new = ["engine", "$BEFORE", "new", "--last"]
    assert script.with_words(new) == "engine $BEFORE new --last"


@pytest.mark.parametrize(
    ("script", "environment", "expected"),
    [
        ("engine $EXTRA", {}, "$EXTRA"),
        ("engine -m m \\\n  ${EXTRA} --last", {}, "${EXTRA}"),
        ('engine "$MODEL" --name=$NAME a$B', {}, ""),
        ("engine '$EXTRA' \\$EXTRA", {}, ""),
        ("engine $EXTRA", {"EXTRA": ""}, "$EXTRA"),
        ("engine $EXTRA", {"EXTRA": "--a-flag"}, "$EXTRA"),
        ("engine $EXTRA", {"EXTRA": "two words"}, "$EXTRA"),
        ("engine $EXTRA", {"EXTRA": "$(OTHER)"}, "$EXTRA"),
        ("engine $MODEL", {"MODEL": "org/model-7b"}, ""),
        ("MODEL='x --y'\nengine $MODEL", {"MODEL": "org/model-7b"}, "$MODEL"),
        ("export MODEL=x; engine $MODEL", {"MODEL": "org/model-7b"}, "$MODEL"),
    ],
)
def test_a_variable_that_may_be_flags_is_known(script: str, environment: dict[str, str], expected: str) -> None:
    found = scripts_of({"command": ["sh", "-c", script]})[-1]
    assert found.unknown(environment) == expected
