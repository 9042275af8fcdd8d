"""The way of one manifest: un-inject what is injected, find the engine of each pod, and edit the pod.

Doing it twice gives the same bytes, because what was done is undone first. A pod that cannot be injected is left as it
was, with the reason; nothing is ever half done.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.adapter import PROXY_BY_HAND, RUN_DIR_VARIABLE, Launch
from rekindle_plugins.contract.errors import ConfigError, RekindleError

from rekindle.backends import Backends
from rekindle.inject import additions, service_port
from rekindle.inject.documents import Document, Stream
from rekindle.inject.edits import Edits, Place, undo
from rekindle.inject.engine import EngineContainer, find_engine
from rekindle.inject.kinds import Path, PodTemplate, pod_templates

PREFIX = "rekindle.dev/"
SWITCH, INJECTED, EDITS, ADDED = (PREFIX + name for name in ("inject", "injected", "edits", "added"))
PROXY, ENGINE_PORT = PREFIX + "proxy", PREFIX + "engine-port"
"""What one pod says of itself, whatever the options say."""
YES, NO = ("enabled", "true"), ("disabled", "false")
RECORD_VERSION = 1
GPU_RESOURCE = "nvidia.com/gpu"


class GpuMode(enum.Enum):
    """How the sidecar comes to see the engine's GPUs."""

    AUTO = "auto"
    """ENV where the engine asks for GPUs, else NONE."""
    DRA = "dra"
    ENV = "env"
    NONE = "none"


@dataclass(frozen=True)
class Options:
    """What the user decides."""

    image: str
    version: str
    """Ours, for the annotation."""
    backend: str | None = None
    container: str | None = None
    gpu_mode: GpuMode = GpuMode.AUTO
    store_size_bytes: int = 8 << 30
    engine_uid: int | None = None
    proxy: bool = False
    """Whether the stream proxy takes over the engine's port."""
    engine_port: int | None = None
    """Where the engine listens behind it; None: the first port that no text of the pod mentions."""
    template_path: Path | None = None
    """Where objects of a kind that we do not know have their pod template."""


class Outcome(enum.Enum):
    INJECTED = "injected"
    UNINJECTED = "uninjected"
    SKIPPED = "skipped"
    REFUSED = "refused"


@dataclass(frozen=True)
class Rewritten:
    """What became of one pod. `notes`: what the user should know; for a pod that was left alone, why."""

    where: str
    outcome: Outcome
    notes: tuple[str, ...] = ()


def pod_count(stream: Stream, template_path: Path | None = None) -> int:
    return sum(1 for document in stream.documents for _ in pod_templates(document.node, template_path))


def inject(stream: Stream, options: Options, backends: Backends, is_only_pod: bool | None = None) -> list[Rewritten]:
    """Changes the stream in place, pod by pod. Raises nothing for a pod that cannot be injected.

    `is_only_pod`: whether there is one pod in all that the user gave; None: in this stream.
    """
    found: list[Rewritten] = []
    _undo_all(stream, options.template_path)
    if is_only_pod is None:
        is_only_pod = pod_count(stream, options.template_path) == 1
    for document in list(stream.documents):
        results, more = inject_object(document, options, backends, is_only_pod)
        found += results
        for node in more:
            stream.append(node)
    return found


def inject_object(
    document: Document, options: Options, backends: Backends, is_only_pod: bool = False
) -> tuple[list[Rewritten], list[additions.Values]]:
    """Changes one object: all its pods, or none. Returns what became of each, and objects that it needs beside it."""
    before, was_changed = copy.deepcopy(document.node), document.is_changed
    document.unshare()
    more: list[additions.Values] = []
    results = [_inject_pod(document, pod, options, backends, is_only_pod, more) for pod in _pods(document, options)]
    if any(result.outcome is Outcome.REFUSED for result in results):
        results, more = [_not_alone(result) for result in results], []
    if not any(result.outcome is Outcome.INJECTED for result in results):
        document.node, document.is_changed = before, was_changed
    return results, more


def uninject(stream: Stream, template_path: Path | None = None) -> list[Rewritten]:
    """Takes all of it back. Raises ConfigError where a manifest was changed so that it cannot be done exactly."""
    return _undo_all(stream, template_path)


def _pods(document: Document, options: Options) -> list[PodTemplate]:
    return list(pod_templates(document.node, options.template_path))


def _not_alone(result: Rewritten) -> Rewritten:
    if result.outcome is not Outcome.INJECTED:
        return result
    return Rewritten(result.where, Outcome.REFUSED, ("another pod of the same object was refused",))


def _undo_all(stream: Stream, template_path: Path | None) -> list[Rewritten]:
    found = []
    for document in list(stream.documents):
        if isinstance(document.node, Mapping) and ADDED in _annotations(document.node):
            stream.documents.remove(document)
            continue
        for pod in pod_templates(document.node, template_path):
            if EDITS in _annotations(pod.owner):
                _undo_pod(pod)
                document.is_changed = True
                found.append(Rewritten(pod.where, Outcome.UNINJECTED))
    return found


def _undo_pod(pod: PodTemplate) -> None:
    text = str(_annotations(pod.owner)[EDITS])
    try:
        record = json.loads(text)
        if record["version"] != RECORD_VERSION:
            by = _annotations(pod.owner).get(INJECTED, "another version")
            raise ConfigError("uninject", pod.where, f"it was injected by rekindle {by}", "use that one to uninject it")
        edits, made = list(record["edits"]), list(record["made"])
        undo(pod.spec, edits)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("uninject", pod.where, f"its annotation {EDITS} is damaged: {error!r}") from error
    annotations = pod.owner["metadata"]["annotations"]
    for name in (INJECTED, EDITS):
        annotations.pop(name, None)
    if "annotations" in made and not annotations:
        del pod.owner["metadata"]["annotations"]
    if "metadata" in made and not pod.owner["metadata"]:
        del pod.owner["metadata"]


def _inject_pod(
    document: Document,
    pod: PodTemplate,
    options: Options,
    backends: Backends,
    is_only_pod: bool,
    more: list[additions.Values],
) -> Rewritten:
    if str(_annotations(pod.owner).get(SWITCH, "")).lower() in NO:
        return Rewritten(pod.where, Outcome.SKIPPED, (f"annotation {SWITCH} says so",))
    try:
        engine = find_engine(pod.spec, backends, options.backend, options.container, is_only_pod)
        if engine is None:
            what = f"a container of {options.backend}: name it with --container" if options.backend else "an engine"
            return Rewritten(pod.where, Outcome.SKIPPED, (f"no container looks like {what}",))
        notes: list[str] = []
        edits = Edits(pod.spec)
        has_proxy = _wants_proxy(pod, options)
        wired = _wired(engine, has_proxy, notes)
        takeover = _take_over(pod, engine, options, notes) if has_proxy else None
        _edit_engine(edits, engine, wired, takeover, notes)
        sidecar = _decide(edits, pod, engine, options, notes)
        _add(edits, engine, dataclasses.replace(sidecar, proxy=takeover))
        if sidecar.gpu_claims == (additions.CLAIM,):
            more.append(_claim(document, edits, pod, engine))
        _annotate(pod, edits, options.version)
    except RekindleError as error:
        hint = (error.hint,) if error.hint else ()
        return Rewritten(pod.where, Outcome.REFUSED, (f"{error.subject}: {error.problem}", *hint))
    document.is_changed = True
    return Rewritten(pod.where, Outcome.INJECTED, (f"engine {engine.name} ({engine.adapter.info.name})", *notes))


def _wants_proxy(pod: PodTemplate, options: Options) -> bool:
    """What the pod says itself goes before what the user says of all."""
    said = str(_annotations(pod.owner).get(PROXY, YES[0] if options.proxy else NO[0])).lower()
    if said not in (*YES, *NO):
        raise ConfigError("inject", f"annotation {PROXY}", f"{said!r:.40} is neither {YES[0]} nor {NO[0]}")
    return said in YES


def _wired(engine: EngineContainer, has_proxy: bool, notes: list[str]) -> Launch:
    """The launch with the plugin's flags. First, since it is what may be refused."""
    launch = engine.launch.with_environment(**{RUN_DIR_VARIABLE: additions.RUN_DIR})
    try:
        wired = engine.adapter.wire(launch)
    except ConfigError as error:
        more = f"; for the proxy, {PROXY_BY_HAND}" if has_proxy else ""
        raise ConfigError(error.op, error.subject, error.problem, error.hint + more) from error
    if wired.note:
        notes.append(wired.note)
    return wired.launch


def _take_over(pod: PodTemplate, engine: EngineContainer, options: Options, notes: list[str]) -> additions.Takeover:
    """What becomes of the engine's port."""
    port = str(_annotations(pod.owner).get(ENGINE_PORT, options.engine_port or ""))
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError("inject", f"annotation {ENGINE_PORT}", f"{port!r:.40} is no port")
    takeover = service_port.plan(pod.spec, engine, engine.launch, int(port) if port else None)
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
    for entry in engine.node.get("env") or ():
        if isinstance(entry, Mapping) and entry.get("name") == "PYTHONPATH":
            if "value" not in entry:
                problem = "its PYTHONPATH comes from elsewhere (valueFrom)"
                raise ConfigError(
                    "wire", f"container {engine.name}", problem, f"put {additions.SHIM_MOUNT} first in it"
                )
            edits.set_value((*engine.at, "env", "name=PYTHONPATH", "value"), f"{additions.SHIM_MOUNT}:{entry['value']}")
            return
    edits.add_item((*engine.at, "env"), {"name": "PYTHONPATH", "value": additions.SHIM_MOUNT})


def _decide(
    edits: Edits, pod: PodTemplate, engine: EngineContainer, options: Options, notes: list[str]
) -> additions.Sidecar:
    gpus, claims = _gpu_count(engine), _claims(engine)
    mode = options.gpu_mode
    if mode is GpuMode.AUTO:
        mode = GpuMode.ENV if gpus else GpuMode.NONE
    if mode is not GpuMode.NONE:
        edits.set_value(("shareProcessNamespace",), True)
        notes.append("the containers share one process namespace: CUDA's memory handles need it")
    if mode is GpuMode.ENV:
        edits.set_value(("runtimeClassName",), "nvidia")
        notes.append("the sidecar sees every GPU of its node (--gpu-mode env); dra shares the engine's alone")
    if mode is GpuMode.DRA and not gpus and not claims:
        raise ConfigError("inject", f"container {engine.name}", f"it asks for no {GPU_RESOURCE}", "use --gpu-mode none")
    if mode is GpuMode.NONE and claims:
        notes.append(f"its devices come by claims ({', '.join(claims)}): --gpu-mode dra shares them with the sidecar")
    uid = _uid(pod, engine, options)
    if uid == 0:
        notes.append("the engine runs as root, and so does the sidecar: not within the restricted security standard")
    shm = [m["name"] for m in engine.node.get("volumeMounts") or () if m.get("mountPath") == "/dev/shm"]
    return additions.Sidecar(
        options.image,
        options.store_size_bytes,
        uid,
        gpu_environment=mode is GpuMode.ENV,
        gpu_claims=() if mode is not GpuMode.DRA else (additions.CLAIM,) if gpus else claims,
        shm_volume=str(shm[0]) if shm else "",
    )


def _add(edits: Edits, engine: EngineContainer, sidecar: additions.Sidecar) -> None:
    for mount in additions.engine_mounts():
        edits.add_item((*engine.at, "volumeMounts"), mount)
    edits.set_value((*engine.at, "livenessProbe"), additions.engine_probe())
    for volume in additions.volumes(sidecar):
        edits.add_item(("volumes",), volume)
    edits.add_item(("initContainers",), additions.sidecar_container(sidecar))
    edits.add_item(("initContainers",), additions.shim_container(sidecar))


def _claim(document: Document, edits: Edits, pod: PodTemplate, engine: EngineContainer) -> additions.Values:
    """One claim for both containers in the place of the engine's own request."""
    count, metadata = _gpu_count(engine), document.node.get("metadata") or {}
    name = f"{pod.where.split()[-1]}-{additions.CLAIM}".lower()
    at = (*engine.at, "resources")
    for part in ("limits", "requests"):
        if GPU_RESOURCE in (engine.node["resources"].get(part) or {}):
            edits.remove_value((*at, part, GPU_RESOURCE))
    edits.add_item((*at, "claims"), {"name": additions.CLAIM})
    edits.add_item(("resourceClaims",), {"name": additions.CLAIM, "resourceClaimTemplateName": name})
    template = additions.claim_template(name, str(metadata.get("namespace", "")), count)
    template["metadata"]["annotations"][ADDED] = "true"
    return template


def _annotate(pod: PodTemplate, edits: Edits, version: str) -> None:
    made = []
    if not isinstance(pod.owner.get("metadata"), Mapping):
        made.append("metadata")
        pod.owner["metadata"] = {}
    if not isinstance(pod.owner["metadata"].get("annotations"), Mapping):
        made.append("annotations")
        pod.owner["metadata"]["annotations"] = {}
    record = {"version": RECORD_VERSION, "edits": edits.record, "made": made}
    annotations = pod.owner["metadata"]["annotations"]
    annotations[INJECTED] = version
    annotations[EDITS] = json.dumps(record, separators=(",", ":"))


def _annotations(owner: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = owner.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return annotations if isinstance(annotations, Mapping) else {}


def _gpu_count(engine: EngineContainer) -> int:
    resources = engine.node.get("resources") or {}
    counts = [int((resources.get(part) or {}).get(GPU_RESOURCE, 0)) for part in ("limits", "requests")]
    return max(counts)


def _claims(engine: EngineContainer) -> tuple[str, ...]:
    """The resource claims that it names already."""
    resources = engine.node.get("resources") or {}
    return tuple(str(claim["name"]) for claim in resources.get("claims") or ())


def _uid(pod: PodTemplate, engine: EngineContainer, options: Options) -> int:
    """The engine's: its container's, its pod's, or the user's word; root where nobody says."""
    contexts = [engine.node.get("securityContext") or {}, pod.spec.get("securityContext") or {}]
    given = [context["runAsUser"] for context in contexts if "runAsUser" in context]
    if given:
        return int(given[0])
    if options.engine_uid is not None:
        return options.engine_uid
    if any(context.get("runAsNonRoot") for context in contexts):
        problem = "it runs as a user of its image that the manifest does not name"
        raise ConfigError("inject", f"container {engine.name}", problem, "name the user's number with --engine-uid")
    return 0
