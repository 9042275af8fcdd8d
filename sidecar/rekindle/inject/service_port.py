"""The engine's port, taken over by the sidecar's stream proxy. The engine moves to another port of the same pod.

    before     client ─▶ 8000 engine
    after      client ─▶ 8000 proxy (sidecar) ─▶ 9471 engine

The containers of a pod have one network, so a Service, an ingress or a host port that leads to the number keeps leading
to whoever listens there. The port's declaration stays with the engine's container for that reason: it is only a name
for the number, and Services find names in native sidecars from Kubernetes 1.32 on only.

The engine's own probes follow the engine: they ask whether *it* serves, and an answer that waits in the proxy for the
next engine says nothing of that. Which port is meant is never guessed; what is not certain raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rekindle_plugins.contract.adapter import PROXY_BY_HAND, Launch
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.contract.listening import Listening

from rekindle.inject.additions import HTTP_PORT, Takeover
from rekindle.inject.edits import Edits, Place
from rekindle.inject.engine import EngineContainer
from rekindle.inject.room import containers, ports

FIRST_ENGINE_PORT = HTTP_PORT + 1
WILDCARDS: Mapping[str, tuple[str, str]] = {
    "": ("0.0.0.0", "127.0.0.1"),
    "0.0.0.0": ("0.0.0.0", "127.0.0.1"),
    "::": ("[::]", "[::1]"),
}
"""Where the proxy listens, and where it finds the engine, by the engine's own host."""
PROBES: tuple[Place, ...] = (
    ("startupProbe",),
    ("readinessProbe",),
    ("lifecycle", "postStart"),
    ("lifecycle", "preStop"),
)
"""What asks the engine, and is not replaced by ours as its liveness probe is."""


def plan(spec: Any, engine: EngineContainer, launch: Launch, engine_port: int | None, http_port: int) -> Takeover:
    """Where everybody is going to listen; `http_port` is the sidecar's own, which `room` has found free.

    Raises ConfigError where that is not certain, or cannot be.
    """
    if launch.is_shell:
        problem = "it is started by a script, which cannot be edited safely"
        raise ConfigError("move", f"container {engine.name}", problem, PROXY_BY_HAND)
    listening = engine.adapter.listens(launch)
    declared = [port for port in ports(engine.node) if port.get("containerPort") == listening.port]
    _check(spec, engine, listening, bool(declared))
    if engine_port is None:
        engine_port = _free_port(spec, http_port)
    elif engine_port in (listening.port, http_port) or engine_port in _declared_anywhere(spec):
        problem = f"the port {engine_port} is taken in this pod"
        raise ConfigError("move", f"container {engine.name}", problem, "name another one with --engine-port")
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    listen_host, engine_host = WILDCARDS.get(listening.host, (host, host))
    return Takeover(listening.port, engine_port, listen_host, engine_host, bool(declared))


def follow(edits: Edits, engine: EngineContainer, takeover: Takeover, notes: list[str]) -> None:
    """Has the engine's probes and hooks ask it where it is now."""
    names = {port.get("name") for port in ports(engine.node) if port.get("containerPort") == takeover.port}
    mine = {takeover.port, str(takeover.port), *names} - {None}
    for place in PROBES:
        asked = engine.node
        for step in place:
            asked = asked.get(step) if isinstance(asked, Mapping) else None
        if not isinstance(asked, Mapping):
            continue
        for kind in ("httpGet", "tcpSocket", "grpc"):
            if _points_at(asked.get(kind), mine):
                edits.set_value((*engine.at, *place, kind, "port"), takeover.engine_port)
        if re.search(rf"\b{takeover.port}\b", json.dumps(asked.get("exec"), default=str)):
            notes.append(f"the command of its {place[-1]} names port {takeover.port}, and asks through the proxy now")


def _check(spec: Any, engine: EngineContainer, listening: Listening, is_declared: bool) -> None:
    where = f"container {engine.name}"
    if "$" in listening.host:
        raise ConfigError("move", where, f"its host {listening.host} is not known here", PROXY_BY_HAND)
    declared = sorted(int(port["containerPort"]) for port in ports(engine.node))
    if not listening.is_told and declared and not is_declared:
        problem = f"it declares {_listed(declared)}, and its command does not say where it listens"
        hint = f"give the engine its port in the command, or declare {listening.port}"
        raise ConfigError("move", where, problem, hint)
    for other in containers(spec):
        if other is not engine.node and any(p.get("containerPort") == listening.port for p in ports(other)):
            problem = f"container {other.get('name')} declares its port {listening.port}, too"
            raise ConfigError("move", where, problem, "which of the two a Service means is for you to say")


def _free_port(spec: Any, http_port: int) -> int:
    """The first one that no text of the pod has a number of."""
    if spec.get("hostNetwork"):
        problem = "the pod has its node's network, and which ports are free there is not known here"
        raise ConfigError("move", "the engine", problem, "name one with --engine-port")
    taken = {http_port, *(int(number) for number in re.findall(r"\d{4,5}", json.dumps(spec, default=str)))}
    return next(port for port in range(FIRST_ENGINE_PORT, 65536) if port not in taken)


def _points_at(action: Any, ports: set[Any]) -> bool:
    """Whether a probe's action asks one of those ports of this pod."""
    return isinstance(action, Mapping) and action.get("port") in ports and not action.get("host")


def _declared_anywhere(spec: Any) -> set[int]:
    return {int(port["containerPort"]) for container in containers(spec) for port in ports(container)}


def _listed(ports: list[int]) -> str:
    return " and ".join(map(str, ports))
