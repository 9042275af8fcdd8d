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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
EACH = "[]"
"""In a path: every element of a list."""

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


@dataclass(frozen=True)
class PodTemplate:
    """Where one pod is described. `metadata` is a mapping that may still be missing in its `owner`."""

    where: str
    """For people: "Deployment llama"."""
    owner: Any
    """The mapping that has `metadata`."""
    spec: Any


def pod_templates(node: Any, path: Path | None = None) -> Iterator[PodTemplate]:
    """All pod templates of one document; none for what has none. `path`: where another kind has its template."""
    if not isinstance(node, Mapping):
        return
    kind, name = str(node.get("kind", "")), _name_of(node)
    if kind == "List" or (kind.endswith("List") and isinstance(node.get("items"), list)):
        for item in node.get("items") or ():
            yield from pod_templates(item, path)
        return
    where = f"{kind} {name}"
    if kind == "InferenceService":
        predictor = _at(node, ("spec", "predictor"))
        if isinstance(predictor, Mapping):
            yield PodTemplate(where, node, predictor)
        return
    for each in TEMPLATES.get(kind, (path,) if path is not None else ()):
        for template in _each(node, each):
            if isinstance(template, Mapping) and isinstance(template.get("spec"), Mapping):
                yield PodTemplate(where, template, template["spec"])


def _each(node: Any, path: Path) -> Iterator[Any]:
    for index, step in enumerate(path):
        if step == EACH:
            for item in node if isinstance(node, Sequence) and not isinstance(node, str) else ():
                yield from _each(item, path[index + 1 :])
            return
        node = node.get(step) if isinstance(node, Mapping) else None
    yield node


def _at(node: Any, path: Path) -> Any:
    return next(_each(node, path))


def _name_of(node: Mapping[str, Any]) -> str:
    metadata = node.get("metadata")
    given = metadata if isinstance(metadata, Mapping) else {}
    return str(given.get("name") or given.get("generateName") or "without a name")
