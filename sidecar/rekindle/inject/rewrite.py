"""The way of one manifest: un-inject what is injected, find the engine of each pod, and edit the pod.

Doing it twice gives the same bytes, because what was done is undone first. An object that cannot be injected is left as
it was, with the reason, also where it was injected before; nothing is ever half done.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from rekindle_plugins.contract.adapter import PROXY_BY_HAND, RUN_DIR_VARIABLE, Launch
from rekindle_plugins.contract.errors import ConfigError, RekindleError

from rekindle.backends import Backends
from rekindle.inject import additions, choices, room, service_port
from rekindle.inject.choices import GPU_RESOURCE, GpuMode
from rekindle.inject.documents import Document, Stream
from rekindle.inject.edits import Edits, Place, undo
from rekindle.inject.engine import EngineContainer, find_engine
from rekindle.inject.kinds import Path, PodTemplate, hints, label, name_of, namespace_of, objects_of, pod_templates
from rekindle.inject.scalars import quoted

PREFIX = "rekindle.dev/"
SWITCH, INJECTED, EDITS, ADDED = (PREFIX + name for name in ("inject", "injected", "edits", "added"))
PROXY, ENGINE_PORT, HTTP_PORT = (PREFIX + name for name in ("proxy", "engine-port", "http-port"))
"""What one pod says of itself, whatever the options say."""
YES, NO = ("enabled", "true"), ("disabled", "false")
RECORD_VERSION = 1


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
    http_port: int | None = None
    """Where the sidecar serves its probes and metrics; None: 9470, in pods that have a network of their own."""
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
    """Changes the stream in place, object by object. Raises nothing for one that cannot be injected.

    `is_only_pod`: whether there is one pod in all that the user gave; None: in this stream.
    """
    if is_only_pod is None:
        is_only_pod = pod_count(stream, options.template_path) == 1
    found: list[Rewritten] = []
    made: list[additions.Values] = []
    for document in list(stream.documents):
        results, more = inject_object(document, options, backends, is_only_pod)
        found += results
        made += more
    _remove_added(stream, _claims_in_use(stream, options.template_path) - {_key(node) for node in made})
    for node in made:
        stream.append(node)
    return found


def inject_object(
    document: Document, options: Options, backends: Backends, is_only_pod: bool = False
) -> tuple[list[Rewritten], list[additions.Values]]:
    """Changes a document: of each object in it all pods, or none.

    Returns what became of each pod, and objects that they need beside them.
    """
    before = copy.deepcopy(document.node)
    document.unshare()
    results: list[Rewritten] = []
    more: list[additions.Values] = []
    is_changed = False
    for at in list(objects_of(document.node)):
        work = _Object(document, at, options, backends, is_only_pod)
        is_changed |= work.inject()
        results += work.results
        more += work.more
    if is_changed:
        document.is_changed = True
    else:
        document.node = before
    return results, more


def uninject(stream: Stream, template_path: Path | None = None) -> list[Rewritten]:
    """Takes all of it back. Raises ConfigError where a manifest was changed so that it cannot be done exactly."""
    found = []
    _remove_added(stream, frozenset())
    for document in stream.documents:
        for pod in pod_templates(document.node, template_path):
            if EDITS in _annotations(pod.owner):
                _undo_pod(pod)
                document.is_changed = True
                found.append(Rewritten(pod.where, Outcome.UNINJECTED))
    return found


@dataclass
class _Object:
    """One object on its way: `at` is where in its document it is. `inject` says whether it was changed."""

    document: Document
    at: tuple[Any, ...]
    options: Options
    backends: Backends
    is_only_pod: bool
    results: list[Rewritten] = dataclasses.field(default_factory=list)
    more: list[additions.Values] = dataclasses.field(default_factory=list)

    @property
    def node(self) -> Any:
        node = self.document.node
        for step in self.at:
            node = node[step]
        return node

    def inject(self) -> bool:
        """Raises nothing: whatever goes wrong is this object's, which is then as it was."""
        before = copy.deepcopy(self.node)
        where = name_of(before) if isinstance(before, Mapping) else ""
        undone: set[int] = set()
        try:
            pods = list(pod_templates(self.node, self.options.template_path))
            for index, pod in enumerate(pods):
                if EDITS in _annotations(pod.owner):
                    _undo_pod(pod)
                    undone.add(index)
            self.results = [self._inject_pod(pod, index in undone) for index, pod in enumerate(pods)]
            if not pods and hints(self.node):
                self.results = [Rewritten(where, Outcome.SKIPPED, ("no pod was found in it", *hints(self.node)))]
        except RekindleError as error:
            self.results = [Rewritten(where, Outcome.REFUSED, _reasons(error))]
        except Exception as error:  # of a manifest that is not as it should be, or of a plugin
            self.results = [Rewritten(where, Outcome.REFUSED, (_unexpected(error),))]
        outcomes = [result.outcome for result in self.results]
        if Outcome.REFUSED in outcomes:
            self._put(before)
            self.results, self.more = [_not_alone(result, bool(undone)) for result in self.results], []
            return False
        return bool(undone) or Outcome.INJECTED in outcomes

    def _put(self, node: Any) -> None:
        if not self.at:
            self.document.node = node
            return
        parent = self.document.node
        for step in self.at[:-1]:
            parent = parent[step]
        parent[self.at[-1]] = node

    def _inject_pod(self, pod: PodTemplate, was_injected: bool) -> Rewritten:
        options = self.options
        if str(_annotations(pod.owner).get(SWITCH, "")).lower() in NO:
            taken_out = ("what was injected is taken out",) if was_injected else ()
            return Rewritten(pod.where, Outcome.SKIPPED, (f"annotation {SWITCH} says so", *taken_out))
        notes: list[str] = []
        try:
            engine = find_engine(pod.spec, self.backends, options.backend, options.container, self.is_only_pod)
            if engine is None:
                what = f"a container of {options.backend}: name it with --container" if options.backend else "an engine"
                reasons = (f"no container looks like {what}", *(() if pod.spec.get("containers") else hints(self.node)))
                return Rewritten(pod.where, Outcome.REFUSED if was_injected else Outcome.SKIPPED, reasons)
            self._edit(pod, engine, notes)
        except RekindleError as error:
            return Rewritten(pod.where, Outcome.REFUSED, _reasons(error))
        except Exception as error:  # of a manifest that is not as it should be, or of a plugin
            return Rewritten(pod.where, Outcome.REFUSED, (_unexpected(error),))
        return Rewritten(pod.where, Outcome.INJECTED, (f"engine {engine.name} ({engine.adapter.info.name})", *notes))

    def _edit(self, pod: PodTemplate, engine: EngineContainer, notes: list[str]) -> None:
        """Raises what refuses the pod, which may be changed in part by then."""
        options = self.options
        http_port = _port(pod, HTTP_PORT, options.http_port)
        room.check(pod.spec, engine, http_port or additions.HTTP_PORT, http_port is not None)
        edits = Edits(pod.spec)
        has_proxy = _wants_proxy(pod, options)
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
        if claims == (additions.CLAIM,):
            self.more.append(_claim(self.node, edits, pod, engine))
        _annotate(pod, edits, options.version)


def _reasons(error: RekindleError) -> tuple[str, ...]:
    return (f"{error.subject}: {error.problem}", *((error.hint,) if error.hint else ()))


def _unexpected(error: Exception) -> str:
    return f"it could not be understood: {type(error).__name__}: {error}"


def _not_alone(result: Rewritten, was_injected: bool) -> Rewritten:
    """A refusal, for all pods of an object."""
    stays = ("it stays as it was injected before",) if was_injected else ()
    if result.outcome is Outcome.INJECTED:
        return Rewritten(result.where, Outcome.REFUSED, ("another pod of the same object was refused", *stays))
    return dataclasses.replace(result, notes=(*result.notes, *stays))


def _key(node: Mapping[str, Any]) -> tuple[str, str]:
    """A claim template's namespace and name."""
    return namespace_of(node), str(node["metadata"]["name"])


def _claims_in_use(stream: Stream, template_path: Path | None) -> frozenset[tuple[str, str]]:
    """The claim templates that injected pods name: those of objects that stay as they were are to stay, too."""
    found = set()
    for document in stream.documents:
        for at in objects_of(document.node):
            node = document.node
            for step in at:
                node = node[step]
            for pod in pod_templates(node, template_path):
                if EDITS in _annotations(pod.owner):
                    claims = [claim for claim in pod.spec.get("resourceClaims") or () if isinstance(claim, Mapping)]
                    found |= {(namespace_of(node), str(claim.get("resourceClaimTemplateName"))) for claim in claims}
    return frozenset(found)


def _remove_added(stream: Stream, kept: frozenset[tuple[str, str]]) -> None:
    """Takes out the claim templates that an earlier injection added, but for some."""

    def is_removed(node: Any) -> bool:
        return isinstance(node, Mapping) and ADDED in _annotations(node) and _key(node) not in kept

    for document in list(stream.documents):
        if is_removed(document.node):
            stream.documents.remove(document)
            continue
        items = document.node.get("items") if isinstance(document.node, Mapping) else None
        if isinstance(items, list) and any(is_removed(item) for item in items):
            items[:] = [item for item in items if not is_removed(item)]
            document.is_changed = True


def _undo_pod(pod: PodTemplate) -> None:
    text = str(_annotations(pod.owner)[EDITS])
    try:
        record = json.loads(text)
        if record["version"] != RECORD_VERSION:
            by = _annotations(pod.owner).get(INJECTED, "another version")
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


def _port(pod: PodTemplate, annotation: str, told: int | None) -> int | None:
    """What the pod says itself goes before what the user says of all (`told`)."""
    port = str(_annotations(pod.owner).get(annotation) or told or "")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError("inject", f"annotation {annotation}", f"{port!r:.40} is no port")
    return int(port) if port else None


def _take_over(
    pod: PodTemplate, engine: EngineContainer, options: Options, http_port: int, notes: list[str]
) -> additions.Takeover:
    """What becomes of the engine's port."""
    engine_port = _port(pod, ENGINE_PORT, options.engine_port)
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


def _annotations(owner: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = owner.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return annotations if isinstance(annotations, Mapping) else {}
