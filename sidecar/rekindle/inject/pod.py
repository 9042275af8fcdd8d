"""The edits of one pod: the engine's command, environment and probe, the sidecar beside it, and the record of it all.

Whatever refuses the pod is raised in the middle of it; who calls has a copy of what was before.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any, NoReturn

from rekindle_plugins.contract.adapter import PROXY_BY_HAND, RUN_DIR_VARIABLE, Launch
from rekindle_plugins.contract.errors import ConfigError

from rekindle.inject import additions, choices, room, service_port
from rekindle.inject.choices import GPU_RESOURCE, GpuMode
from rekindle.inject.edits import Edits, Place, undo
from rekindle.inject.engine import EngineContainer
from rekindle.inject.kinds import PodTemplate, label, name_of, namespace_of
from rekindle.inject.options import (
    ADDED,
    EDITS,
    ENGINE_PORT,
    HTTP_PORT,
    INJECTED,
    Options,
    annotations_of,
    port_of,
    wants_proxy,
)
from rekindle.inject.scalars import quoted

RECORD_VERSION = 1


def edit_pod(
    node: Any, pod: PodTemplate, engine: EngineContainer, options: Options, notes: list[str]
) -> list[additions.Values]:
    """Adds the sidecar to a pod of the object `node`. Returns what the pod needs beside it.

    Raises what refuses the pod, which may be changed in part by then.
    """
    http_port = port_of(pod, HTTP_PORT, options.http_port)
    room.check(pod.spec, engine, http_port or additions.HTTP_PORT, http_port is not None)
    edits = Edits(pod.spec)
    has_proxy = wants_proxy(pod, options)
    wired = _wired(engine, has_proxy, notes)
    takeover = None
    if has_proxy:
        takeover = _take_over(pod, engine, options, http_port or additions.HTTP_PORT, notes)
    if choices.is_guaranteed(pod.spec):
        notes.append("the pod was Guaranteed and becomes Burstable: the sidecar has no limit for CPU")
    _edit_engine(edits, engine, wired, takeover, notes)
    mode, claims = choices.gpu(edits, engine, options.gpu_mode, notes)
    sidecar = additions.Sidecar(
        options.image,
        options.store_size_bytes,
        choices.user(pod.spec, engine, options.engine_uid, notes),
        gpu_environment=mode is GpuMode.ENV,
        gpu_claims=claims,
        shm=choices.shared_memory(engine),
        http_port=http_port or additions.HTTP_PORT,
        proxy=takeover,
    )
    _add(edits, engine, sidecar)
    more = [_claim(node, edits, pod, engine)] if claims == (additions.CLAIM,) else []
    _annotate(pod, edits, options.version)
    return more


def undo_pod(pod: PodTemplate) -> None:
    text = str(annotations_of(pod.owner)[EDITS])
    try:
        record = json.loads(text)
        if record["version"] != RECORD_VERSION:
            by = annotations_of(pod.owner).get(INJECTED, "another version")
            raise ConfigError("uninject", pod.where, f"it was injected by rekindle {by}", "use that one to uninject it")
        edits, made, null = list(record["edits"]), list(record["made"]), list(record.get("null", ()))
        undo(pod.spec, edits)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError("uninject", pod.where, f"its annotation {EDITS} is damaged: {error!r}") from error
    annotations = pod.owner["metadata"]["annotations"]
    for name in (INJECTED, EDITS):
        annotations.pop(name, None)
    for name, owner in (("annotations", pod.owner["metadata"]), ("metadata", pod.owner)):
        if name in made and not owner[name]:
            del owner[name]
        elif name in null and not owner[name]:
            owner[name] = None


def _wired(engine: EngineContainer, has_proxy: bool, notes: list[str]) -> Launch:
    """The launch with the plugin's flags. First, since it is what may be refused."""
    launch = engine.launch.with_environment(**{RUN_DIR_VARIABLE: additions.RUN_DIR})
    try:
        wired = engine.adapter.wire(launch)
        unknown = engine.script.unknown(engine.launch.environment) if engine.script else ""
        if unknown and (has_proxy or wired.launch.words != launch.words):
            _refuse_unknown(engine, unknown)
    except ConfigError as error:
        more = f"; for the proxy, {PROXY_BY_HAND}" if has_proxy else ""
        raise ConfigError(error.op, error.subject, error.problem, error.hint + more) from error
    if wired.note:
        notes.append(wired.note)
    return wired.launch


def _refuse_unknown(engine: EngineContainer, variable: str) -> NoReturn:
    """A command that may have other flags than those that are read here."""
    problem = f"{variable} in its script may hold flags, of a connector or a port, that are not known here"
    flags = " ".join(map(shlex.quote, engine.adapter.flags()))
    hint = f'if it is one word, quote it ("{variable}"); else write its flags out, or add by hand behind it: {flags}'
    raise ConfigError("wire", f"container {engine.name}", problem, hint)


def _take_over(
    pod: PodTemplate, engine: EngineContainer, options: Options, http_port: int, notes: list[str]
) -> additions.Takeover:
    """What becomes of the engine's port."""
    engine_port = port_of(pod, ENGINE_PORT, options.engine_port)
    takeover = service_port.plan(pod.spec, engine, engine.launch, engine_port, http_port)
    notes.append(f"port {takeover.port} is the stream proxy's; the engine moves to {takeover.engine_port}")
    if engine.adapter.dialect() is None:
        notes.append(f"no answer of {engine.adapter.info.name} is continued: its plugin does not know how")
    return takeover


def _edit_engine(
    edits: Edits, engine: EngineContainer, launch: Launch, takeover: additions.Takeover | None, notes: list[str]
) -> None:
    """The engine's command and environment, and for the proxy its port and what asks there."""
    if takeover is not None:
        launch = engine.adapter.moved(launch, takeover.engine_port)
        service_port.follow(edits, engine, takeover, notes)
    script = engine.script
    if script is not None:
        edits.swap_word((*engine.at, script.key), script.index, script.with_words(launch.words))
    else:
        _set_words(edits, (*engine.at, "command"), engine.launch.command, launch.command)
        _set_words(edits, (*engine.at, "args"), engine.launch.args, launch.args)
    _set_python_path(edits, engine)
    for name, value in launch.environment.items():
        if engine.launch.environment.get(name) != value:
            edits.add_item((*engine.at, "env"), {"name": name, "value": value})


def _set_words(edits: Edits, place: Place, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    """Word by word, so that everything else of the list may be changed by hand and still be un-injected."""
    if len(new) < len(old):
        edits.set_value(place, list(new))
        return
    for index, (before, after) in enumerate(zip(old, new, strict=False)):
        if before != after:
            edits.swap_word(place, index, after)
    if len(new) > len(old):
        edits.append_words(place, new[len(old) :])


def _set_python_path(edits: Edits, engine: EngineContainer) -> None:
    given = None
    for entry in engine.node.get("env") or ():
        if isinstance(entry, Mapping) and entry.get("name") == "PYTHONPATH":  # the last one counts
            given = entry
    if given is not None:
        if given.get("valueFrom"):
            problem = "its PYTHONPATH comes from elsewhere (valueFrom)"
            raise ConfigError("wire", f"container {engine.name}", problem, f"put {additions.SHIM_MOUNT} first in it")
        value = ":".join([additions.SHIM_MOUNT, *([str(given["value"])] if given.get("value") else [])])
        edits.set_value((*engine.at, "env", "name=PYTHONPATH", "value"), value)
        return
    edits.add_item((*engine.at, "env"), {"name": "PYTHONPATH", "value": additions.SHIM_MOUNT})


def _add(edits: Edits, engine: EngineContainer, sidecar: additions.Sidecar) -> None:
    for mount in additions.engine_mounts():
        edits.add_item((*engine.at, "volumeMounts"), mount)
    edits.set_value((*engine.at, "livenessProbe"), additions.engine_probe(sidecar.http_port))
    for volume in additions.volumes(sidecar):
        edits.add_item(("volumes",), volume)
    edits.add_item(("initContainers",), additions.sidecar_container(sidecar))
    edits.add_item(("initContainers",), additions.shim_container(sidecar))


def _claim(node: Mapping[str, Any], edits: Edits, pod: PodTemplate, engine: EngineContainer) -> additions.Values:
    """One claim for both containers in the place of the engine's own request. `node`: the pod's object."""
    count = choices.gpu_count(engine)
    kind, _, name = name_of(node).partition(" ")
    name = label(name, kind, pod.role, additions.CLAIM)
    at = (*engine.at, "resources")
    for part in ("limits", "requests"):
        if GPU_RESOURCE in (engine.node["resources"].get(part) or {}):
            edits.remove_value((*at, part, GPU_RESOURCE))
    edits.add_item((*at, "claims"), {"name": additions.CLAIM})
    edits.add_item(("resourceClaims",), {"name": additions.CLAIM, "resourceClaimTemplateName": name})
    template = additions.claim_template(name, namespace_of(node), count)
    template["metadata"]["annotations"][ADDED] = "true"
    return template


def _annotate(pod: PodTemplate, edits: Edits, version: str) -> None:
    made: list[str] = []
    null: list[str] = []
    for name, owner in (("metadata", pod.owner), ("annotations", None)):
        owner = pod.owner["metadata"] if owner is None else owner
        if owner.get(name) is None:
            (null if name in owner else made).append(name)
            owner[name] = {}
    record: dict[str, Any] = {"version": RECORD_VERSION, "edits": edits.record, "made": made}
    if null:
        record["null"] = null
    annotations = pod.owner["metadata"]["annotations"]
    annotations[INJECTED] = quoted(version)
    annotations[EDITS] = json.dumps(record, separators=(",", ":"))
