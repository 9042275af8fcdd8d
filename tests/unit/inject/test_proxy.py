"""The stream proxy before the engine's port: who listens where, what follows the engine, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from rekindle.backends import Backends, discover
from rekindle.config import parse_proxy
from rekindle.inject import GpuMode, Options, Outcome, Rewritten, inject, uninject
from rekindle.inject.documents import Document, Stream
from rekindle.inject.rewrite import inject_object
from rekindle_plugins.contract.errors import ConfigError
from ruamel.yaml import YAML

MANIFESTS = sorted((Path(__file__).parent / "manifests").glob("*.yaml"))
POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: p
spec:
  containers:
  - name: engine
    image: vllm/vllm-openai:v0.32.0
    args:
    - --model=m
    - --port   # where the Service leads to
    - "8080"
    - --max-model-len=4096
    ports:
    - {name: http, containerPort: 8080}
    startupProbe:
      httpGet: {path: /health, port: 8080}
      failureThreshold: 60
    readinessProbe:
      httpGet: {path: /health, port: http}
    livenessProbe:
      httpGet: {path: /health, port: http}
    lifecycle:
      preStop:
        httpGet: {path: /stop, port: http}
"""


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def injected(text: str, backends: Backends, **changes: Any) -> tuple[str, list[Rewritten]]:
    stream = Stream.read("manifest", text)
    done = inject(stream, Options(**{"image": "r:1", "version": "1", "proxy": True, **changes}), backends)
    return stream.write(), done


def uninjected(text: str) -> str:
    stream = Stream.read("manifest", text)
    uninject(stream)
    return stream.write()


def plain(text: str) -> Any:
    return YAML(typ="safe").load(text)


def containers(text: str) -> dict[str, dict[str, Any]]:
    spec = plain(text)["spec"]
    return {node["name"]: node for node in [*spec["initContainers"], *spec["containers"]]}


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def pod(
    command: list[str],
    ports: list[Mapping[str, Any]] | None = None,
    others: list[Mapping[str, Any]] | None = None,
    annotations: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    engine: dict[str, Any] = {"name": "engine", "image": "i", "command": command}
    if ports:
        engine["ports"] = ports
    spec = {"containers": [engine, *(others or [])], **more}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "annotations": dict(annotations or {})},
        "spec": spec,
    }


def tried(pod: dict[str, Any], backends: Backends, **changes: Any) -> tuple[dict[str, Any], Rewritten]:
    document = Document("", copy.deepcopy(pod))
    options = Options(**{"image": "r:1", "version": "1", "proxy": True, **changes})
    (done,), _ = inject_object(document, options, backends)
    return document.node, done


def route(pod: Mapping[str, Any]) -> str:
    sidecar = next(node for node in pod["spec"]["initContainers"] if node["name"] == "rekindle")
    return environment(sidecar).get("REKINDLE_PROXY", "")


VLLM = ["vllm", "serve", "m"]


def test_the_proxy_has_the_services_port_and_the_engine_and_its_probes_have_another(backends: Backends) -> None:
    text, (done,) = injected(POD, backends)
    assert done.outcome is Outcome.INJECTED
    assert "port 8080 is the stream proxy's; the engine moves to 9471" in done.notes
    kubernetes_validate.validate(plain(text), "1.29", strict=True)
    found = containers(text)
    engine, sidecar = found["engine"], found["rekindle"]
    assert engine["args"][:4] == ["--model=m", "--port", "9471", "--max-model-len=4096"]
    route = parse_proxy(environment(sidecar)["REKINDLE_PROXY"])
    assert route is not None
    assert (route.listen.host, route.listen.port, route.engine_url) == ("0.0.0.0", 8080, "http://127.0.0.1:9471")
    assert engine["startupProbe"] == {"httpGet": {"path": "/health", "port": 9471}, "failureThreshold": 60}
    assert engine["readinessProbe"]["httpGet"]["port"] == 9471
    assert engine["lifecycle"]["preStop"]["httpGet"]["port"] == 9471
    assert "exec" in engine["livenessProbe"], "ours, as without the proxy"
    assert engine["ports"] == [{"name": "http", "containerPort": 8080}], "Services look names up here before 1.32"
    assert [port["containerPort"] for port in sidecar["ports"]] == [9470], "a port is declared once in a pod"


def test_uninjecting_gives_back_every_byte(backends: Backends) -> None:
    text, _ = injected(POD, backends)
    assert "# where the Service leads to" in text
    assert plain(uninjected(text)) == plain(POD)
    assert injected(text, backends)[0] == text


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_manifest_gets_the_proxy_and_loses_it_again(path: Path, backends: Backends) -> None:
    text, done = injected(path.read_text(), backends, gpu_mode=GpuMode.NONE)
    assert any(result.outcome is Outcome.INJECTED for result in done)
    assert "REKINDLE_PROXY" in text
    load = YAML(typ="safe").load_all
    assert list(load(uninjected(text))) == list(load(path.read_text()))


def test_a_port_that_nobody_declared_is_declared_by_the_sidecar(backends: Backends) -> None:
    changed, done = tried(pod(VLLM), backends)
    assert done.outcome is Outcome.INJECTED
    assert changed["spec"]["containers"][0]["command"] == [*VLLM, "--kv-transfer-config", *_config(changed), *_moved()]
    (sidecar,) = [node for node in changed["spec"]["initContainers"] if node["name"] == "rekindle"]
    assert {"name": "rekindle-proxy", "containerPort": 8000} in sidecar["ports"]


def _config(pod: Mapping[str, Any]) -> list[str]:
    return [word for word in pod["spec"]["containers"][0]["command"] if word.startswith("{")]


def _moved() -> list[str]:
    return ["--port", "9471"]


@pytest.mark.parametrize(
    ("command", "expected", "word"),
    [
        ([*VLLM, "--port=8001"], "0.0.0.0:8001=http://127.0.0.1:9471", "--port=9471"),
        ([*VLLM, "--port", "8001", "--port", "8002"], "0.0.0.0:8002=http://127.0.0.1:9471", "9471"),
        ([*VLLM, "--host", "::", "--port", "80"], "[::]:80=http://[::1]:9471", "9471"),
        ([*VLLM, "--host=10.0.0.7"], "10.0.0.7:8000=http://10.0.0.7:9471", "9471"),
        (["python3", "-m", "nano_engine"], "127.0.0.1:8000=http://127.0.0.1:9471", "9471"),
        (["trtllm-serve", "m", "--host", "0.0.0.0"], "0.0.0.0:8000=http://127.0.0.1:9471", "9471"),
        (["trtllm-serve", "serve", "m", "--port=8355"], "localhost:8355=http://localhost:9471", "--port=9471"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_host_and_port_are_read_as_each_engine_has_them(
    command: list[str], expected: str, word: str, backends: Backends
) -> None:
    changed, done = tried(pod(command), backends)
    assert done.outcome is Outcome.INJECTED, done.notes
    assert route(changed) == expected
    assert parse_proxy(expected) is not None
    assert word in changed["spec"]["containers"][0]["command"]


def test_variables_of_the_manifest_are_read_and_kept(backends: Backends) -> None:
    given = pod([*VLLM, "--port", "$(PORT)"])
    given["spec"]["containers"][0]["env"] = [{"name": "PORT", "value": "8123"}]
    changed, _ = tried(given, backends)
    assert route(changed).startswith("0.0.0.0:8123=")
    assert "9471" in changed["spec"]["containers"][0]["command"]
    assert {"name": "PORT", "value": "8123"} in changed["spec"]["containers"][0]["env"]


def test_the_engines_new_port_is_one_that_the_pod_does_not_mention(backends: Backends) -> None:
    others = [{"name": "router", "image": "i", "args": ["--metrics=:9471"], "env": [{"name": "P", "value": "9472"}]}]
    changed, _ = tried(pod(VLLM, others=others), backends)
    assert route(changed).endswith(":9473")
    changed, _ = tried(pod(VLLM, others=others), backends, engine_port=9900)
    assert route(changed).endswith(":9900")


def test_a_privileged_port_needs_the_one_right_that_the_standard_allows(backends: Backends) -> None:
    changed, _ = tried(pod([*VLLM, "--port=80"], securityContext={"runAsUser": 1000}), backends)
    (sidecar,) = [node for node in changed["spec"]["initContainers"] if node["name"] == "rekindle"]
    assert sidecar["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}
    kubernetes_validate.validate(changed, "1.34", strict=True)


def test_probes_that_share_an_anchor_come_back_as_they_were(backends: Backends) -> None:
    text = POD.replace("livenessProbe:\n      httpGet: {path: /health, port: http}", "livenessProbe: *probe").replace(
        "readinessProbe:\n", "readinessProbe: &probe\n"
    )
    assert "*probe" in text
    changed, _ = injected(text, backends)
    engine = containers(changed)["engine"]
    assert engine["readinessProbe"]["httpGet"]["port"] == 9471
    assert plain(uninjected(changed)) == plain(text)


def test_a_probes_command_that_names_the_port_is_told_of(backends: Backends) -> None:
    given = pod(VLLM)
    given["spec"]["containers"][0]["readinessProbe"] = {"exec": {"command": ["curl", "-f", "localhost:8000/health"]}}
    changed, done = tried(given, backends)
    assert "the command of its readinessProbe names port 8000, and asks through the proxy now" in done.notes
    assert changed["spec"]["containers"][0]["readinessProbe"] == given["spec"]["containers"][0]["readinessProbe"]


def test_an_engine_whose_answers_cannot_be_continued_is_told_of(backends: Backends) -> None:
    _, done = tried(pod(["trtllm-serve", "m"]), backends)
    assert any("no answer of tensorrt_llm is continued" in note for note in done.notes)


@pytest.mark.parametrize(
    ("given", "changes", "why", "recipe"),
    [
        (pod(["sh", "-c", "vllm serve m | tee log"]), {}, "script for a shell", "REKINDLE_PROXY"),
        (
            pod(["sh", "-c", "vllm serve m --x RekindleConnector | tee log"]),
            {},
            "started by a script",
            "REKINDLE_PROXY",
        ),
        (pod([*VLLM, "--port", "$(PORT)"]), {}, "comes from the variable PORT", "write the value"),
        (pod([*VLLM, "--port", "http"]), {}, "'http' is no port", "give it a number"),
        (pod([*VLLM, "--port"]), {}, "it has no value", ""),
        (pod([*VLLM, "--host", "$(POD_IP)"]), {}, "the variable POD_IP", "write the value"),
        (
            pod([*VLLM, "--config", "/c.yaml", "--kv-transfer-config", '{"kv_connector":"RekindleConnector"}']),
            {},
            "may be in the file",
            "give it --port",
        ),
        (pod(["python3", "-m", "vllm.entrypoints.grpc_server"]), {}, "it speaks gRPC", "REKINDLE_PROXY"),
        (pod(["sh", "-c", 'vllm serve "$MODEL" $EXTRA']), {}, "$EXTRA in its script may hold flags", "REKINDLE_PROXY"),
        (pod([*VLLM, "--ssl-keyfile", "k"]), {}, "it speaks TLS", "REKINDLE_PROXY=0.0.0.0:PORT"),
        (pod([*VLLM, "--headless"]), {}, "it has no server", "REKINDLE_PROXY"),
        (pod([*VLLM, "--uds=/s"]), {}, "a Unix socket", "REKINDLE_PROXY"),
        (pod(VLLM, hostNetwork=True), {"http_port": 9480}, "its node's network", "--engine-port"),
        (pod(VLLM), {"engine_port": 8000}, "8000 is taken", "--engine-port"),
        (pod(VLLM), {"engine_port": 9470}, "9470 is taken", "--engine-port"),
        (pod([*VLLM, "--port=9470"]), {}, "the sidecar's own port", "another one"),
        (pod(VLLM, ports=[{"containerPort": 8080}, {"containerPort": 8081}]), {}, "declares 8080 and 8081", "8000"),
        (
            pod(VLLM, others=[{"name": "router", "image": "i", "ports": [{"containerPort": 8000}]}]),
            {},
            "container router declares its port 8000, too",
            "for you to say",
        ),
        (
            pod(["trtllm-serve", "disaggregated", "-c", "c.yaml"]),
            {"backend": "tensorrt_llm", "container": "engine"},
            "no server of an engine",
            "REKINDLE_PROXY",
        ),
        (pod(["trtllm-serve", "m", "--grpc"]), {}, "it speaks gRPC", "REKINDLE_PROXY"),
        (pod(VLLM, annotations={"rekindle.dev/proxy": "perhaps"}), {}, "neither enabled nor disabled", ""),
        (pod(VLLM, annotations={"rekindle.dev/engine-port": "high"}), {}, "'high' is no port", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_moved_for_certain_is_refused_with_the_recipe(
    given: dict[str, Any], changes: dict[str, Any], why: str, recipe: str, backends: Backends
) -> None:
    changed, done = tried(given, backends, **changes)
    assert done.outcome is Outcome.REFUSED
    assert why in " ".join(done.notes)
    assert recipe in " ".join(done.notes)
    assert changed == given


def test_a_pod_says_itself_whether_it_wants_the_proxy(backends: Backends) -> None:
    yes = {"rekindle.dev/proxy": "enabled", "rekindle.dev/engine-port": "9900"}
    changed, _ = tried(pod(VLLM, annotations=yes), backends, proxy=False)
    assert route(changed) == "0.0.0.0:8000=http://127.0.0.1:9900"
    changed, _ = tried(pod(VLLM, annotations={"rekindle.dev/proxy": "disabled"}), backends)
    assert route(changed) == ""


def test_a_word_that_was_changed_by_hand_is_told(backends: Backends) -> None:
    text, _ = injected(POD, backends)
    changed = text.replace('- "9471"', '- "9999"')
    assert changed != text
    with pytest.raises(ConfigError, match="put '8080' back by hand"):
        uninjected(changed)
