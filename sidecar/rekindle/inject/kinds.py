"""Where the pods of each kind of object are described.

Pod                                  the object itself
Deployment, StatefulSet, DaemonSet,  spec.template
  ReplicaSet, Job
CronJob                              spec.jobTemplate.spec.template
List                                 each of items
LeaderWorkerSet                      spec.leaderWorkerTemplate.leaderTemplate and .workerTemplate
InferenceService (KServe)            spec.predictor: a pod's spec in place
DynamoGraphDeployment                spec.components[].podTemplate
any other                            the path that the user names
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
EACH = "[]"
"""In a path: every element of a list."""
MAX_LABEL_CHARS = 63

TEMPLATES: Mapping[str, tuple[Path, ...]] = {
    "Pod": ((),),
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"), (("spec", "template"),)),
    "CronJob": (("spec", "jobTemplate", "spec", "template"),),
    "LeaderWorkerSet": (
        ("spec", "leaderWorkerTemplate", "leaderTemplate"),
        ("spec", "leaderWorkerTemplate", "workerTemplate"),
    ),
    "DynamoGraphDeployment": (("spec", "components", EACH, "podTemplate"),),
}
HINTS: Mapping[str, str] = {
    "DynamoGraphDeployment": (
        "its containers are given in parts (v1alpha1), and its operator makes pods of them: write it as v1beta1, whose "
        "components have a podTemplate, or let the webhook inject the pods"
    ),
    "LLMInferenceService": "its controller fills in the engine's command: let the webhook inject the pods",
    "InferenceService": (
        "its container is in a serving runtime: inject that one (--template-path .), or write the container under "
        "predictor.containers"
    ),
}
"""What to do about kinds whose manifest does not have the engine's container."""


@dataclass(frozen=True)
class PodTemplate:
    """Where one pod is described. `metadata` is a mapping that may still be missing in its `owner`."""

    where: str
    """For people: "Deployment llama"."""
    owner: Any
    """The mapping that has `metadata`."""
    spec: Any
    role: str = ""
    """Which of its object's pods it is; "" where there is only one."""


def objects_of(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the objects of a document are: at its top, `()`, or in a List, `("items", 3)`."""
    if not _is_list(node):
        yield at
        return
    for index, item in enumerate(node.get("items") or ()):
        yield from objects_of(item, (*at, "items", index))


def pod_templates(node: Any, path: Path | None = None) -> Iterator[PodTemplate]:
    """All pod templates of one document; none for what has none. `path`: where another kind has its template."""
    if not isinstance(node, Mapping):
        return
    kind, where = str(node.get("kind", "")), name_of(node)
    if _is_list(node):
        for item in node.get("items") or ():
            yield from pod_templates(item, path)
        return
    if kind == "InferenceService":
        predictor = next(_each(node, ("spec", "predictor")))[1]
        if isinstance(predictor, Mapping):
            yield PodTemplate(where, node, predictor)
        return
    for each in TEMPLATES.get(kind, (path,) if path is not None else ()):
        for role, template in _each(node, each):
            if isinstance(template, Mapping) and isinstance(template.get("spec"), Mapping):
                more = each[-1].removesuffix("Template") if kind == "LeaderWorkerSet" else role
                yield PodTemplate(where, template, template["spec"], more)


def hints(node: Any) -> tuple[str, ...]:
    """What to do about an object in which no pod was found, though it has containers; nothing where it has none."""
    kind = str(node.get("kind", "")) if isinstance(node, Mapping) else ""
    if kind in HINTS:
        return (HINTS[kind],)
    place = next(_containers(node), None)
    if kind in TEMPLATES or place is None:
        return ()
    if place and place[-1] == "spec":
        path = ".".join(place[:-1]).replace(f".{EACH}", EACH)
        return (f"where a {kind} has its pods is not known here: try --template-path {path or '.'}",)
    return (f"where a {kind} has its pods is not known here: let the webhook inject them as they are created",)


def name_of(node: Mapping[str, Any]) -> str:
    """For people: "Deployment llama"."""
    metadata = node.get("metadata")
    given = metadata if isinstance(metadata, Mapping) else {}
    return f"{node.get('kind', '')} {given.get('name') or given.get('generateName') or 'without a name'}"


def namespace_of(node: Mapping[str, Any]) -> str:
    """ "" where the manifest leaves it to whoever applies it."""
    metadata = node.get("metadata")
    return str(metadata.get("namespace") or "") if isinstance(metadata, Mapping) else ""


def label(*parts: str) -> str:
    """A name out of parts that every object may have: a DNS label. A long one is cut, and keeps apart from others."""
    text = re.sub("[^a-z0-9]+", "-", "-".join(part for part in parts if part).lower()).strip("-")
    if len(text) <= MAX_LABEL_CHARS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text[: MAX_LABEL_CHARS - len(digest) - 1].rstrip('-')}-{digest}"


def _is_list(node: Any) -> bool:
    if not isinstance(node, Mapping):
        return False
    kind = str(node.get("kind", ""))
    return kind == "List" or (kind.endswith("List") and isinstance(node.get("items"), list))


def _each(node: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """What is at a path, and which of a list's elements it is in."""
    for index, step in enumerate(path):
        if step == EACH:
            items = node if isinstance(node, Sequence) and not isinstance(node, str) else ()
            for number, item in enumerate(items):
                name = item.get("name") if isinstance(item, Mapping) else None
                for inner, found in _each(item, path[index + 1 :]):
                    yield label(str(name or number), inner), found
            return
        node = node.get(step) if isinstance(node, Mapping) else None
    yield "", node


def _containers(node: Any, at: Path = ()) -> Iterator[Path]:
    """Where in an object there are containers: the paths to what has them."""
    if isinstance(node, Mapping):
        containers = node.get("containers")
        if isinstance(containers, list) and any(isinstance(one, Mapping) and one.get("image") for one in containers):
            yield at
        for key, value in node.items():
            yield from _containers(value, (*at, str(key)))
    elif isinstance(node, list):
        for item in node:
            yield from _containers(item, (*at, EACH))
