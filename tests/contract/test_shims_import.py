"""The engine's half imports with nothing but the standard library, under every Python an engine image may have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"
MODULES = [
    "rekindle_plugins.contract",
    "rekindle_plugins.client",
    "rekindle_plugins.nano",
    "rekindle_plugins.tensorrt_llm",
    "rekindle_plugins.tensorrt_llm.adapter",
    "rekindle_plugins.tensorrt_llm.meeting",
    "rekindle_plugins.tensorrt_llm.worker",
]
TRT_PROBE = """
import json, sys, types
sys.path.append({plugins!r})
for name in {names!r}:
    module = types.ModuleType(name)
    module.__path__ = []
    sys.modules[name] = module
module.KvCacheConnectorScheduler = module.KvCacheConnectorWorker = type("Base", (), {{}})
before = set(sys.modules)
from rekindle_plugins.tensorrt_llm import RekindleScheduler, RekindleWorker
foreign = sorted(
    name for name in set(sys.modules) - before
    if name.partition(".")[0] not in sys.stdlib_module_names and name.partition(".")[0] != "rekindle_plugins"
)
print(json.dumps([issubclass(RekindleScheduler, module.KvCacheConnectorScheduler), foreign]))
"""
PROBE = """
import json, sys
sys.path.append({plugins!r})
before = set(sys.modules)
import importlib
for name in {modules!r}:
    importlib.import_module(name)
foreign = sorted(
    name for name in set(sys.modules) - before
    if name.partition(".")[0] not in sys.stdlib_module_names and name.partition(".")[0] != "rekindle_plugins"
)
print(json.dumps([list(sys.version_info[:2]), foreign, "site" in sys.modules]))
"""


def interpreters() -> list[str]:
    """This one, and what pyenv has of the versions that engines ship."""
    versions = Path(os.path.expanduser("~/.pyenv/versions"))
    found = [str(path) for minor in (10, 12, 13) for path in sorted(versions.glob(f"3.{minor}.*/bin/python"))]
    return [sys.executable, *found]


@pytest.mark.parametrize("python", interpreters())
def test_the_engines_half_imports_with_the_standard_library_alone(python: str) -> None:
    script = PROBE.format(plugins=str(PLUGINS), modules=MODULES)
    result = subprocess.run([python, "-I", "-S", "-B", "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    version, foreign, has_site = json.loads(result.stdout)
    assert version >= [3, 10]
    assert foreign == []
    assert not has_site


@pytest.mark.parametrize("folder", ["connectors.", ""])
@pytest.mark.parametrize("python", interpreters())
def test_the_tensorrt_llm_classes_import_with_the_engines_interface_alone(python: str, folder: str) -> None:
    parts = f"tensorrt_llm._torch.pyexecutor.{folder}kv_cache_connector".split(".")
    names = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    script = TRT_PROBE.format(plugins=str(PLUGINS), names=names)
    result = subprocess.run([python, "-I", "-S", "-B", "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [True, []]
