"""Which container of a pod is the engine, and which plugin knows it. Uncertain means refused, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rekindle_plugins.contract.adapter import Adapter, Launch
from rekindle_plugins.contract.errors import ConfigError

from rekindle.backends import Backends
from rekindle.inject.additions import SHIM_MOUNT
from rekindle.inject.edits import Place
from rekindle.inject.script import Script, scripts_of


@dataclass(frozen=True)
class EngineContainer:
    name: str
    node: Any
    launch: Launch
    adapter: Adapter
    script: Script | None = None
    """Where the launch is one command of a script for a shell."""

    @property
    def at(self) -> Place:
        return ("containers", f"name={self.name}")


def launch_of(container: Mapping[str, Any]) -> Launch:
    environment = {
        str(entry["name"]): "" if entry.get("value") is None else str(entry["value"])
        for entry in container.get("env") or ()
        if isinstance(entry, Mapping) and "name" in entry
    }
    words = (_words(container, "command"), _words(container, "args"))
    return Launch(*words, environment, str(container.get("image") or ""), plugins_dir=SHIM_MOUNT)


def find_engine(
    spec: Any, backends: Backends, backend: str | None, name: str | None, is_only_pod: bool = False
) -> EngineContainer | None:
    """The engine's container, or None where no container looks like one.

    A container that its plugin does not recognise is taken for the engine where the user named it, or where a plugin
    was named and no other container can have been meant: none in this pod, and there is no other pod (`is_only_pod`).

    Raises ConfigError where it cannot be told: two that look like engines, a name that is not there, a plugin that is
    not there.
    """
    containers = [node for node in spec.get("containers") or () if isinstance(node, Mapping)]
    adapter = backends.named(backend) if backend else None
    found = []
    for node in containers:
        launch, script = _launch_or_command(node, adapter, backends)
        if name is not None:
            mine = (adapter or backends.for_launch(launch)) if node.get("name") == name else None
        elif adapter is not None:
            mine = adapter if adapter.recognises(launch) or (is_only_pod and len(containers) == 1) else None
        else:
            mine = backends.for_launch(launch)
        if mine is not None:
            found.append(EngineContainer(str(node.get("name", "")), node, launch, mine, script))
    if name is not None and not found:
        names = ", ".join(str(node.get("name")) for node in containers) or "none"
        there = any(node.get("name") == name for node in containers)
        problem = "no plugin knows what it runs" if there else f"there is no such container, only {names}"
        raise ConfigError("find", f"container {name}", problem, "name its plugin with --backend" if there else "")
    if len(found) > 1:
        names = " and ".join(engine.name for engine in found)
        raise ConfigError("find", "the engine", f"{names} look like engines", "name one with --container")
    return found[0] if found else None


def _launch_or_command(
    node: Mapping[str, Any], adapter: Adapter | None, backends: Backends
) -> tuple[Launch, Script | None]:
    """The container's launch; for a script of which one command starts an engine, that command's."""
    launch = launch_of(node)
    if not launch.is_shell:
        return launch, None
    found = []
    for script in scripts_of(node):
        command = replace(launch, command=tuple(word.text for word in script.words), args=())
        if not command.is_shell and (adapter.recognises(command) if adapter else backends.for_launch(command)):
            found.append((command, script))
    return found[0] if len(found) == 1 else (launch, None)


def _words(container: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = container.get(key) or ()
    return (value,) if isinstance(value, str) else tuple(str(word) for word in value)
