"""What is added to an engine's command and environment."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
from rekindle.backends import Backends, discover
from rekindle.cli import engine_command
from rekindle.cli.engine_command import engine_environment, wired
from rekindle_plugins.contract.errors import ConfigError


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


@pytest.mark.parametrize(
    "command",
    [
        ["vllm", "serve", "m"],
        ["/opt/bin/vllm", "serve", "m", "--port", "1"],
        ["python", "-m", "vllm.entrypoints.openai.api_server"],
    ],
)
def test_a_vllm_server_gets_our_connector_at_the_end_and_the_operator_is_told(
    command: list[str], backends: Backends
) -> None:
    arguments, note, *_ = wired(command, backends)
    assert list(arguments[: len(command)]) == command
    flag, text = arguments[len(command) :]
    assert flag == "--kv-transfer-config"
    assert json.loads(text) == {
        "kv_connector": "RekindleConnector",
        "kv_connector_module_path": "rekindle_plugins.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
    }
    assert "RekindleConnector" in note


@pytest.mark.parametrize(
    "given", [["--kv-transfer-config", "{}"], ["--kv-transfer-config={}"], ["--kv_transfer_config.kv_role=kv_both"]]
)
def test_a_connector_that_is_given_is_kept(given: list[str], backends: Backends) -> None:
    command = ("vllm", "serve", "m", *given)
    assert wired(command, backends).arguments == command


def test_the_nano_engine_gets_its_plugin(backends: Backends) -> None:
    command = ("python", "-m", "nano_engine")
    engine = wired(command, backends)
    assert engine.arguments == (*command, "--plugin", "rekindle_plugins.nano:connect")
    assert engine.serves_until_stopped


def test_other_commands_are_left_alone_and_told(backends: Backends) -> None:
    for command in (("python", "-m", "http.server"), ("vllm", "bench", "serve"), ("serve", "vllm")):
        arguments, note, *_ = wired(command, backends)
        assert arguments == command
        assert "no plugin knows" in note


def test_a_backend_that_is_named_need_not_be_recognised(backends: Backends) -> None:
    arguments, *_ = wired(("./my-vllm",), backends, "vllm")
    assert "--kv-transfer-config" in arguments
    with pytest.raises(ConfigError, match="there is none"):
        wired(("./my-vllm",), backends, "vlm")


def test_vllm_inside_a_shell_is_left_alone_and_told(backends: Backends) -> None:
    command = ("sh", "-c", "exec vllm serve m")
    arguments, note, *_ = wired(command, backends)
    assert arguments == command
    assert "a script for a shell" in note
    assert "--kv-transfer-config {" in note


def test_the_environment_names_the_run_dir_and_puts_the_plugins_first(tmp_path: Path) -> None:
    environ = engine_environment({"PYTHONPATH": "/theirs", "A": "b"}, tmp_path)
    assert environ["REKINDLE_RUN_DIR"] == str(tmp_path)
    assert environ["A"] == "b"
    first, second = environ["PYTHONPATH"].split(os.pathsep)
    assert (Path(first) / "rekindle_plugins" / "contract").is_dir()
    assert second == "/theirs"
    assert os.pathsep not in engine_environment({}, tmp_path)["PYTHONPATH"]


def test_plugins_among_other_packages_do_not_bring_those_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    (site / "numpy").mkdir(parents=True)
    (site / "rekindle_plugins").mkdir()
    (site / "rekindle_plugins" / "__init__.py").write_text("")
    monkeypatch.delitem(sys.modules, "rekindle_plugins")
    monkeypatch.setattr(sys, "path", [str(site)])
    importlib.invalidate_caches()
    for _ in range(2):  # the second time, the link is there
        folder = Path(engine_command.engine_environment({}, tmp_path)["PYTHONPATH"])
        assert [entry.name for entry in folder.iterdir()] == ["rekindle_plugins"]
        assert (folder / "rekindle_plugins").resolve() == site / "rekindle_plugins"
