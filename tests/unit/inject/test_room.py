"""What a pod must have free for the sidecar: names, folders, a port. What has not is refused, and left as it was."""

from __future__ import annotations

import copy
import json
from typing import Any

import kubernetes_validate
import pytest
from rekindle.backends import Backends, discover
from rekindle.inject import Options, Outcome, Rewritten
from rekindle.inject.admission import patch_of
from rekindle.inject.documents import Document
from rekindle.inject.rewrite import inject_object
from rekindle_plugins.contract.adapter import Launch
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.contract.listening import Listening

VLLM = {"name": "engine", "image": "i", "command": ["vllm", "serve", "m"]}


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def pod(*containers: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {"name": "p", "annotations": annotations or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [*containers], **spec}}


def tried(pod: dict[str, Any], backends: Backends, **changes: Any) -> tuple[dict[str, Any], Rewritten]:
    document = Document("", copy.deepcopy(pod))
    (done,), _ = inject_object(document, Options(**{"image": "r:1", "version": "1", **changes}), backends)
    return document.node, done


def sidecar(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = [node for node in pod["spec"]["initContainers"] if node["name"] == "rekindle"]
    return dict(found)


def mounted(path: str) -> dict[str, Any]:
    volumes = [{"name": "v", "emptyDir": {}}]
    return pod({**VLLM, "volumeMounts": [{"name": "v", "mountPath": path}]}, volumes=volumes)


def declaring(port: int, **more: Any) -> dict[str, Any]:
    return {"name": "other", "image": "i", "ports": [{"containerPort": port, **more}]}


REFUSED = {
    "a container": (pod(VLLM, {"name": "rekindle", "image": "i"}), "container rekindle: the name is taken"),
    "the shim's name": (pod(VLLM, {"name": "rekindle-shim", "image": "i"}), "container rekindle-shim: the name is"),
    "an init container": (pod(VLLM, initContainers=[{"name": "rekindle", "image": "i"}]), "the name is taken"),
    "the engine itself": (pod({**VLLM, "name": "rekindle"}), "the name is taken"),
    "the shim's folder": (mounted("/opt/rekindle"), "something mounted at /opt/rekindle"),
    "with a slash": (mounted("/run/rekindle/"), "something mounted at /run/rekindle"),
    "in it": (mounted("/run/rekindle/private"), "something mounted at /run/rekindle/private"),
    "a port": (pod(VLLM, declaring(9470)), "container other: it has the port 9470"),
    "an init container's port": (pod(VLLM, initContainers=[declaring(9470)]), "it has the port 9470"),
    "the engine's port": (pod({**VLLM, "command": [*VLLM["command"], "--port=9470"]}), "it listens on 9470"),
    "the node's network": (pod(VLLM, hostNetwork=True), "the pod has its node's network"),
}


@pytest.mark.parametrize(("given", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_free_is_refused_also_by_the_webhook(given: dict[str, Any], why: str, backends: Backends) -> None:
    changed, done = tried(given, backends)
    assert done.outcome is Outcome.REFUSED
    assert why in done.notes[0]
    assert len(done.notes) == 2, "the reason and what to do"
    assert changed == given
    asking = copy.deepcopy(given)
    asking["metadata"]["annotations"]["rekindle.dev/inject"] = "enabled"
    (patch,) = patch_of(asking, Options("r:1", "1"), backends)
    assert patch["path"] == "/metadata/annotations", "the pod is created as it is"
    assert why in patch["value"]["rekindle.dev/skip-reason"]


@pytest.mark.parametrize(
    "given",
    [
        pod(VLLM, declaring(9470, protocol="UDP")),
        mounted("/opt/rekindle-of-mine"),
        mounted("/opt"),
        pod(VLLM, {"name": "rekindle-watcher", "image": "i"}),
    ],
    ids=["another protocol", "a longer path", "the folder around it", "a longer name"],
)
def test_what_only_looks_alike_is_no_obstacle(given: dict[str, Any], backends: Backends) -> None:
    changed, done = tried(given, backends)
    assert done.outcome is Outcome.INJECTED, done
    kubernetes_validate.validate(changed, "1.34", strict=True)


def test_the_sidecars_port_can_be_chosen(backends: Backends) -> None:
    changed, done = tried(pod(VLLM, declaring(9470), hostNetwork=True), backends, http_port=9480)
    assert done.outcome is Outcome.INJECTED, done
    ours = sidecar(changed)
    assert {"name": "REKINDLE_HTTP", "value": "0.0.0.0:9480"} in ours["env"]
    assert [port["containerPort"] for port in ours["ports"]] == [9480]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert ours[probe]["httpGet"]["port"] == 9480
    (engine, _) = changed["spec"]["containers"]
    assert "http://127.0.0.1:9480/engine/livez" in engine["livenessProbe"]["exec"]["command"][-1]
    assert "9470" not in json.dumps([ours, engine])


def test_a_pod_chooses_the_sidecars_port_itself(backends: Backends) -> None:
    given = pod(VLLM, annotations={"rekindle.dev/http-port": "9481"}, hostNetwork=True)
    changed, _ = tried(given, backends, http_port=9480)
    assert {"name": "REKINDLE_HTTP", "value": "0.0.0.0:9481"} in sidecar(changed)["env"]
    _, done = tried(pod(VLLM, annotations={"rekindle.dev/http-port": "0"}), backends)
    assert "'0' is no port" in done.notes[0]


def test_the_engine_moves_to_neither_of_the_sidecars_ports(backends: Backends) -> None:
    changed, _ = tried(pod(VLLM), backends, proxy=True, http_port=9471)
    assert changed["spec"]["containers"][0]["command"][-1] == "9472"
    _, done = tried(pod(VLLM), backends, proxy=True, http_port=9480, engine_port=9480)
    assert "9480 is taken" in done.notes[0]
    _, done = tried(pod(VLLM), backends, proxy=True, http_port=8000)
    assert "it listens on 8000, which is the sidecar's own port" in done.notes[0]


def test_a_plugin_that_cannot_tell_its_port_is_no_obstacle(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, launch: Launch) -> Listening:
        raise ZeroDivisionError

    monkeypatch.setattr(type(backends.named("vllm")), "listens", broken)
    _, done = tried(pod(VLLM), backends)
    assert done.outcome is Outcome.INJECTED

    def unsure(self: object, launch: Launch) -> Listening:
        raise ConfigError("read", "flag --port", "it is not known")

    monkeypatch.setattr(type(backends.named("vllm")), "listens", unsure)
    _, done = tried(pod(VLLM), backends)
    assert done.outcome is Outcome.INJECTED
