"""The way of one manifest: un-inject what is injected, find the engine of each pod, and edit the pod.

Doing it twice gives the same bytes, because what was done is undone first. An object that cannot be injected is left as
it was, with the reason, also where it was injected before; nothing is ever half done.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.errors import ConfigError, RekindleError

from rekindle.backends import Backends
from rekindle.inject import additions
from rekindle.inject.documents import Document, Stream
from rekindle.inject.engine import find_engine
from rekindle.inject.kinds import Path, PodTemplate, hints, name_of, namespace_of, objects_of, pod_templates
from rekindle.inject.options import ADDED, EDITS, NO, SWITCH, Options, annotations_of
from rekindle.inject.pod import edit_pod, undo_pod


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
        results, more = inject_object(document, options, backends, is_only_pod, {_key(node) for node in made})
        found += results
        made += more
    _remove_added(stream, _claims_in_use(stream, options.template_path) - {_key(node) for node in made})
    for node in made:
        stream.append(node)
    return found


def inject_object(
    document: Document,
    options: Options,
    backends: Backends,
    is_only_pod: bool = False,
    taken: Collection[tuple[str, str]] = (),
) -> tuple[list[Rewritten], list[additions.Values]]:
    """Changes a document: of each object in it all pods, or none.

    Returns what became of each pod, and objects that they need beside them. `taken`: the namespaces and names of those
    that others need.
    """
    before = copy.deepcopy(document.node)
    document.unshare()
    results: list[Rewritten] = []
    more: list[additions.Values] = []
    is_changed = False
    for at in list(objects_of(document.node)):
        work = _Object(document, at, options, backends, is_only_pod, {*taken, *map(_key, more)})
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
            if EDITS in annotations_of(pod.owner):
                undo_pod(pod)
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
    taken: set[tuple[str, str]]
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
                if EDITS in annotations_of(pod.owner):
                    undo_pod(pod)
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
        if str(annotations_of(pod.owner).get(SWITCH, "")).lower() in NO:
            taken_out = ("what was injected is taken out",) if was_injected else ()
            return Rewritten(pod.where, Outcome.SKIPPED, (f"annotation {SWITCH} says so", *taken_out))
        notes: list[str] = []
        try:
            engine = find_engine(pod.spec, self.backends, options.backend, options.container, self.is_only_pod)
            if engine is None:
                what = f"a container of {options.backend}: name it with --container" if options.backend else "an engine"
                reasons = (f"no container looks like {what}", *(() if pod.spec.get("containers") else hints(self.node)))
                return Rewritten(pod.where, Outcome.REFUSED if was_injected else Outcome.SKIPPED, reasons)
            self._need(edit_pod(self.node, pod, engine, options, notes))
        except RekindleError as error:
            return Rewritten(pod.where, Outcome.REFUSED, _reasons(error))
        except Exception as error:  # of a manifest that is not as it should be, or of a plugin
            return Rewritten(pod.where, Outcome.REFUSED, (_unexpected(error),))
        return Rewritten(pod.where, Outcome.INJECTED, (f"engine {engine.name} ({engine.adapter.info.name})", *notes))

    def _need(self, nodes: list[additions.Values]) -> None:
        for node in nodes:
            if _key(node) in self.taken:
                problem = "another pod has one of that name"
                raise ConfigError("inject", f"claim template {_key(node)[1]}", problem, "rename one of the objects")
            self.taken.add(_key(node))
            self.more.append(node)


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
    return namespace_of(node), str(node["metadata"].get("name"))


def _claims_in_use(stream: Stream, template_path: Path | None) -> frozenset[tuple[str, str]]:
    """The claim templates that injected pods name: those of objects that stay as they were are to stay, too."""
    found = set()
    for document in stream.documents:
        for at in objects_of(document.node):
            node = document.node
            for step in at:
                node = node[step]
            for pod in pod_templates(node, template_path):
                if EDITS in annotations_of(pod.owner):
                    claims = [claim for claim in pod.spec.get("resourceClaims") or () if isinstance(claim, Mapping)]
                    found |= {(namespace_of(node), str(claim.get("resourceClaimTemplateName"))) for claim in claims}
    return frozenset(found)


def _remove_added(stream: Stream, kept: frozenset[tuple[str, str]]) -> None:
    """Takes out the claim templates that an earlier injection added, but for some."""

    def is_removed(node: Any) -> bool:
        return isinstance(node, Mapping) and ADDED in annotations_of(node) and _key(node) not in kept

    for document in list(stream.documents):
        if is_removed(document.node):
            stream.documents.remove(document)
            continue
        items = document.node.get("items") if isinstance(document.node, Mapping) else None
        if isinstance(items, list) and any(is_removed(item) for item in items):
            items[:] = [item for item in items if not is_removed(item)]
            document.is_changed = True
