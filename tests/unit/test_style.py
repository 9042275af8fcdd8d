"""The ratchets of the project's style: what a reader has to hold in the head at once stays small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 70
LONGER_MODULES: dict[str, int] = {}
"""Modules that may be longer, with their length. The list only ever gets shorter."""
LONGER_FUNCTIONS: dict[str, int] = {}
GENERATED = "sidecar/rekindle/admin/v1/"

SLEEPS_ALLOWED = {
    "tests/driving/polling.py": "polls with a deadline",
    "tests/cuda_engine/small_pod.py": "polls with a deadline",
    "tests/integration/test_cli_run.py": "polls with a deadline",
    "tests/unit/nano/test_nano_server.py": "polls with a deadline",
    "tests/e2e/vllm_driving.py": "polls with a deadline",
    "tests/conformance/broken_plugins.py": "a plugin that does what none may: it waits for the sidecar within a step",
    "tests/chaos/test_kills.py": "how long something lives before it is killed, drawn from the printed seed",
}
"""Test modules that may call time.sleep, and why."""


def sources(*folders: str) -> list[str]:
    found = [path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if not path.startswith(GENERATED))


CODE = sources("sidecar", "plugins", "examples")


def test_there_is_code_to_look_at() -> None:
    assert len(CODE) > 50


@pytest.mark.parametrize("path", CODE)
def test_modules_and_functions_are_short(path: str) -> None:
    text = (ROOT / path).read_text()
    lines = text.count("\n")
    assert lines <= LONGER_MODULES.get(path, MAX_MODULE_LINES), f"{path} has {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            name = f"{path}:{node.name}"
            assert length <= LONGER_FUNCTIONS.get(name, MAX_FUNCTION_LINES), f"{name} has {length} lines"


@pytest.mark.parametrize("path", sources("tests"))
def test_tests_wait_for_something_and_never_just_wait(path: str) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep"):
            assert path in SLEEPS_ALLOWED, f"{path}:{node.lineno} sleeps for a fixed time"


def test_the_allow_lists_name_what_exists() -> None:
    named = [*LONGER_MODULES, *(name.partition(":")[0] for name in LONGER_FUNCTIONS), *SLEEPS_ALLOWED]
    assert [path for path in named if not (ROOT / path).exists()] == []
