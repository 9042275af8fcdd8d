"""What ``rekindle run`` adds to an engine's command line and environment, so that its shim is loaded and finds us."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

VLLM_KV_TRANSFER_CONFIG: Mapping[str, str] = {
    "kv_connector": "RekindleConnector",
    "kv_connector_module_path": "rekindle_plugins.vllm",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}


class EngineCommand(NamedTuple):
    """The command to start, and what to tell the operator about what was done to it (empty for nothing)."""

    arguments: tuple[str, ...]
    note: str


def with_connector(arguments: Sequence[str]) -> EngineCommand:
    """Name our connector to a vLLM server that names none. Any other command is left alone."""
    arguments = tuple(arguments)
    if not _is_vllm_server(arguments):
        hidden = any("vllm serve" in part or "vllm.entrypoints" in part for part in arguments)
        note = "this looks like vLLM inside a shell: add --kv-transfer-config there yourself" if hidden else ""
        return EngineCommand(arguments, note)
    # vLLM takes underscores for dashes, and --kv-transfer-config.kv_connector=… for the JSON's fields.
    if any(part.replace("_", "-").startswith("--kv-transfer-config") for part in arguments):
        return EngineCommand(arguments, "vLLM keeps the --kv-transfer-config it was given")
    flag = ("--kv-transfer-config", json.dumps(dict(VLLM_KV_TRANSFER_CONFIG), separators=(",", ":")))
    return EngineCommand(arguments + flag, f"vLLM gets {flag[0]} '{flag[1]}'")


def _is_vllm_server(arguments: tuple[str, ...]) -> bool:
    if any(part == "vllm.entrypoints" or part.startswith("vllm.entrypoints.") for part in arguments):
        return True
    return any(
        os.path.basename(first) == "vllm" and second == "serve" for first, second in itertools.pairwise(arguments)
    )


def engine_environment(environ: Mapping[str, str], run_dir: Path) -> dict[str, str]:
    """The environment of an engine: ours, the run dir, and the plugins first on its PYTHONPATH.

    Makes a folder ``<run_dir>/plugins`` where the plugins lie among other packages: those must not shadow the
    engine's own, which may be for another Python.
    """
    folder = _plugin_folder(run_dir)
    before = environ.get("PYTHONPATH")
    return {
        **environ,
        "REKINDLE_RUN_DIR": str(run_dir),
        "PYTHONPATH": f"{folder}{os.pathsep}{before}" if before else str(folder),
    }


def _plugin_folder(run_dir: Path) -> Path:
    found = importlib.util.find_spec("rekindle_plugins")
    assert found is not None, "rekindle_plugins is installed with us"
    assert found.submodule_search_locations, "rekindle_plugins is a package"
    package = Path(found.submodule_search_locations[0]).resolve()
    beside = {entry.name for entry in package.parent.iterdir()} - {package.name, "__pycache__"}
    if not any(not name.startswith(".") for name in beside):
        return package.parent
    folder = run_dir / "plugins"
    folder.mkdir(mode=0o755, exist_ok=True)
    link = folder / package.name
    if not link.is_symlink() or Path(os.readlink(link)) != package:
        link.unlink(missing_ok=True)
        link.symlink_to(package, target_is_directory=True)
    return folder
