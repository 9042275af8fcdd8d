"""What ``rekindle run`` adds to an engine's command line and environment, so that its shim is loaded and finds us."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rekindle_plugins.contract.adapter import RUN_DIR_VARIABLE, Launch
from rekindle_plugins.contract.errors import ConfigError

from rekindle.backends import Backends


class EngineCommand(NamedTuple):
    """The command to start, what to tell the operator about it (empty for nothing), and its environment.

    `serves_until_stopped`: as the adapter's.
    """

    arguments: tuple[str, ...]
    note: str
    environment: Mapping[str, str]
    serves_until_stopped: bool = False


def wired(
    arguments: Sequence[str], backends: Backends, backend: str | None = None, environ: Mapping[str, str] | None = None
) -> EngineCommand:
    """The command with the flags of its engine's plugin. A command that nobody knows, or can edit, is left alone.

    `environ`: what `engine_environment` made, for plugins whose engine needs a variable of its own beside ours.

    Raises ConfigError when `backend` names no plugin, or the command looks like two engines.
    """
    launch = Launch(tuple(arguments), environment=environ or {})
    adapter = backends.named(backend) if backend else backends.for_launch(launch)
    if adapter is None:
        note = "no plugin knows this command: it runs as it is (`rekindle plugin list`)"
        return EngineCommand(launch.words, note, launch.environment)
    try:
        done = adapter.wire(launch)
    except ConfigError as error:
        note = f"{error.subject}: {error.problem}; {error.hint}"
        return EngineCommand(launch.words, note, launch.environment, adapter.serves_until_stopped)
    return EngineCommand(done.launch.words, done.note, done.launch.environment, adapter.serves_until_stopped)


def engine_environment(environ: Mapping[str, str], run_dir: Path, folders: Sequence[Path] = ()) -> dict[str, str]:
    """The environment of an engine: ours, the run dir, and the plugins first on its PYTHONPATH.

    `folders`: plugin folders, for shims that are not of ours.

    Makes a folder ``<run_dir>/plugins`` where the plugins lie among other packages: those must not shadow the
    engine's own, which may be for another Python.
    """
    places = [str(_plugin_folder(run_dir)), *map(str, folders), environ.get("PYTHONPATH", "")]
    return {
        **environ,
        RUN_DIR_VARIABLE: str(run_dir),
        "PYTHONPATH": os.pathsep.join(place for place in places if place),
    }


def plugin_places(folders: Sequence[Path] = ()) -> list[Path]:
    """What an engine needs on its PYTHONPATH to find our plugins and those in `folders`. Makes nothing."""
    return [_package().parent, *folders]


def _package() -> Path:
    found = importlib.util.find_spec("rekindle_plugins")
    assert found is not None, "rekindle_plugins is installed with us"
    assert found.submodule_search_locations, "rekindle_plugins is a package"
    return Path(found.submodule_search_locations[0]).resolve()


def is_alone(place: Path) -> bool:
    """Whether the plugins' place holds nothing else: what does would shadow the engine's own packages."""
    beside = {entry.name for entry in place.iterdir()} - {_package().name, "__pycache__"}
    return all(name.startswith(".") for name in beside)


def _plugin_folder(run_dir: Path) -> Path:
    package = _package()
    if is_alone(package.parent):
        return package.parent
    folder = run_dir / "plugins"
    folder.mkdir(mode=0o755, exist_ok=True)
    link = folder / package.name
    if not link.is_symlink() or Path(os.readlink(link)) != package:
        link.unlink(missing_ok=True)
        link.symlink_to(package, target_is_directory=True)
    return folder
