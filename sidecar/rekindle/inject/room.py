"""Whether a pod has room for the sidecar: its names, its folders and its port.

What the API server would refuse, or what would end in two servers on one port, is refused here with the reason.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from rekindle_plugins.contract.errors import ConfigError

from rekindle.inject.additions import RUN_MOUNT, SHIM_INIT, SHIM_MOUNT, SIDECAR
from rekindle.inject.engine import EngineContainer


def check(spec: Any, engine: EngineContainer, http_port: int, is_port_chosen: bool) -> None:
    """Raises ConfigError. `is_port_chosen`: whether the user has named the sidecar's port, and so knows it is free."""
    for container in containers(spec):
        if container.get("name") in (SIDECAR, SHIM_INIT):
            hint = "rename it, or take out by hand what an earlier injection left"
            raise ConfigError("inject", f"container {container['name']}", "the name is taken in this pod", hint)
    for mount in engine.node.get("volumeMounts") or ():
        path = posixpath.normpath(str(mount.get("mountPath") or "")) if isinstance(mount, Mapping) else ""
        for ours in (SHIM_MOUNT, RUN_MOUNT):
            if path == ours or path.startswith(f"{ours}/"):
                problem = f"it has something mounted at {path} already"
                raise ConfigError("inject", f"container {engine.name}", problem, f"move it away from {ours}")
    _check_port(spec, engine, http_port, is_port_chosen)


def _check_port(spec: Any, engine: EngineContainer, http_port: int, is_port_chosen: bool) -> None:
    other = "give the sidecar another one with --http-port"
    for container in containers(spec):
        if any(port["containerPort"] == http_port for port in ports(container)):
            problem = f"it has the port {http_port}, which is the sidecar's own port"
            raise ConfigError("inject", f"container {container.get('name')}", problem, other)
    if _listens_on(engine) == http_port:
        problem = f"it listens on {http_port}, which is the sidecar's own port"
        raise ConfigError("inject", f"container {engine.name}", problem, f"give the engine another one, or {other}")
    if spec.get("hostNetwork") and not is_port_chosen:
        problem = f"the pod has its node's network, where {http_port} may be another pod's"
        hint = "name a port that is free on every node with --http-port, one of its own for each engine of a node"
        raise ConfigError("inject", "hostNetwork", problem, hint)


def _listens_on(engine: EngineContainer) -> int | None:
    """None where its plugin cannot tell, for whatever reason: that is an error only where the port is to be moved."""
    try:
        return engine.adapter.listens(engine.launch).port
    except Exception:
        return None


def containers(spec: Any) -> Iterator[Mapping[str, Any]]:
    """All of them: they share one space of names, and one network."""
    for key in ("containers", "initContainers"):
        yield from (node for node in spec.get(key) or () if isinstance(node, Mapping))


def ports(container: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The declared TCP ports."""
    for port in container.get("ports") or ():
        if isinstance(port, Mapping) and (port.get("protocol") or "TCP") == "TCP" and "containerPort" in port:
            yield port
