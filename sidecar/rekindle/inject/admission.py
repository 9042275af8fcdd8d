"""Admission: a pod that is about to be created, in; a patch, out. Pure: no I/O.

admission.k8s.io/v1, AdmissionReview with a Pod at CREATE. A pod takes part when it says so itself, by annotation or
label `rekindle.dev/inject: enabled`. Whatever happens the pod is allowed: one that cannot be injected gets the
annotation `rekindle.dev/skip-reason`, and runs as it would have without us.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping
from typing import Any

from rekindle_plugins.contract.errors import ProtocolError

from rekindle.backends import Backends
from rekindle.inject.choices import GpuMode
from rekindle.inject.documents import Document
from rekindle.inject.options import EDITS, SWITCH, Options
from rekindle.inject.rewrite import Outcome, inject_object

SKIP_REASON = "rekindle.dev/skip-reason"
MAX_REASON_CHARS = 256
API_VERSION = "admission.k8s.io/v1"


def review(body: Any, options: Options, backends: Backends) -> dict[str, Any]:
    """The AdmissionReview that answers one. Raises ProtocolError for what is none, with what was wrong with it."""
    try:
        request = body["request"]
        uid, kind, operation = str(request["uid"]), request["kind"]["kind"], request["operation"]
        if body["apiVersion"] != API_VERSION:
            raise ValueError(f"its apiVersion is {body['apiVersion']!r:.40}")
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("review", "admission request", f"it is malformed: {error!r}") from error
    response: dict[str, Any] = {"uid": uid, "allowed": True}
    pod = request.get("object")
    if kind == "Pod" and operation == "CREATE" and isinstance(pod, dict):
        patch = patch_of(pod, options, backends)
        if patch:
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}


def patch_of(pod: dict[str, Any], options: Options, backends: Backends) -> list[dict[str, Any]]:
    """The JSON patch (RFC 6902) for a pod; empty where it is left alone."""
    metadata = pod.get("metadata") if isinstance(pod.get("metadata"), dict) else {}
    assert isinstance(metadata, dict)
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    if "enabled" not in (annotations.get(SWITCH), labels.get(SWITCH)) or EDITS in annotations:
        return []
    changed = copy.deepcopy(pod)
    changed.setdefault("kind", "Pod")
    if options.gpu_mode is GpuMode.DRA:
        return _skip(metadata, "a resource claim needs an object beside the pod: use `rekindle inject --gpu-mode dra`")
    (result, *_), _ = inject_object(Document("", changed), options, backends)
    if result.outcome is not Outcome.INJECTED:
        return _skip(metadata, "; ".join(result.notes))
    return [
        {"op": "replace", "path": "/spec", "value": changed["spec"]},
        *_annotate(metadata, changed["metadata"]["annotations"]),
    ]


def _skip(metadata: Mapping[str, Any], reason: str) -> list[dict[str, Any]]:
    annotations = {**(metadata.get("annotations") or {}), SKIP_REASON: reason[:MAX_REASON_CHARS]}
    return _annotate(metadata, annotations)


def _annotate(metadata: Mapping[str, Any], annotations: Mapping[str, Any]) -> list[dict[str, Any]]:
    whole = [] if metadata else [{"op": "add", "path": "/metadata", "value": {}}]
    return [*whole, {"op": "add", "path": "/metadata/annotations", "value": dict(annotations)}]
