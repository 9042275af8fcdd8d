"""Manifests are injected, validated, injected again and taken back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from driving.manifests import CORE, VERSIONS, check_references
from rekindle.backends import Backends, discover
from rekindle.inject import GpuMode, Options, Outcome, Rewritten, inject, uninject
from rekindle.inject.documents import Stream
from rekindle.inject.kinds import pod_templates
from rekindle_plugins.contract.errors import ConfigError
from ruamel.yaml import YAML

MANIFESTS = sorted((Path(__file__).parent / "manifests").glob("*.yaml"))


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def options(**changes: Any) -> Options:
    return Options(**{"image": "rekindle-sidecar:1", "version": "1", **changes})


def injected(text: str, backends: Backends, **changes: Any) -> tuple[str, list[Rewritten]]:
    stream = Stream.read("manifest", text)
    done = inject(stream, options(**changes), backends)
    return stream.write(), done


def plain(text: str) -> list[Any]:
    return list(YAML(typ="safe").load_all(text))


def objects(text: str) -> Iterator[dict[str, Any]]:
    for node in plain(text):
        yield from node["items"] if node["kind"] == "List" else [node]


def pods(text: str) -> Iterator[Mapping[str, Any]]:
    for node in plain(text):
        yield from (pod.spec for pod in pod_templates(node))


def pod(*containers: str, spec: str = "", head: str = "") -> str:
    body = "\n".join(f"  - {container}" for container in containers)
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p{head}}}\nspec:\n  containers:\n{body}\n{spec}"


VLLM = "{name: vllm, image: i, command: [vllm, serve, m]}"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_kind_is_injected_and_stays_valid(path: Path, backends: Backends) -> None:
    text, done = injected(path.read_text(), backends)
    assert any(result.outcome is Outcome.INJECTED for result in done)
    for node in objects(text):
        if node["kind"] in CORE:
            for version in VERSIONS:
                kubernetes_validate.validate(node, version, strict=True)
    for spec in pods(text):
        check_references(spec)


@pytest.mark.parametrize("mode", list(GpuMode))
def test_every_gpu_mode_stays_valid(mode: GpuMode, backends: Backends) -> None:
    path = next(path for path in MANIFESTS if path.stem == "deployment-vllm-gpu")
    text, done = injected(path.read_text(), backends, gpu_mode=mode)
    assert done[0].outcome is Outcome.INJECTED
    for node in objects(text):
        kubernetes_validate.validate(node, "1.34", strict=True)
    (spec,) = pods(text)
    check_references(spec)
    claims = [node["metadata"]["name"] for node in objects(text) if node["kind"] == "ResourceClaimTemplate"]
    assert claims == [claim["resourceClaimTemplateName"] for claim in spec.get("resourceClaims", ())]
    assert ("nvidia.com/gpu" in str(spec["containers"])) is (mode is not GpuMode.DRA)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_injecting_twice_gives_the_same_bytes(path: Path, backends: Backends) -> None:
    once, _ = injected(path.read_text(), backends)
    twice, _ = injected(once, backends)
    assert twice == once


@pytest.mark.parametrize("mode", list(GpuMode))
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_uninjecting_gives_back_what_it_meant(path: Path, mode: GpuMode, backends: Backends) -> None:
    text, _ = injected(path.read_text(), backends, gpu_mode=mode)
    stream = Stream.read("manifest", text)
    uninject(stream)
    assert plain(stream.write()) == plain(path.read_text())


def test_comments_order_and_other_documents_keep_their_bytes(backends: Backends) -> None:
    path = next(path for path in MANIFESTS if path.stem == "deployment-vllm-gpu")
    text, _ = injected(path.read_text(), backends)
    service = path.read_text().partition("---\n")[2]
    assert text.endswith(service)
    for comment in ("# A Deployment as people write it.", "# the engine", "# small", "# after the containers"):
        assert comment in text
    stream = Stream.read("manifest", text)
    uninject(stream)
    assert stream.write() == path.read_text()


def test_the_sidecar_passes_the_restricted_standard_where_the_engines_pod_does(backends: Backends) -> None:
    path = next(path for path in MANIFESTS if path.stem == "statefulset-indented")
    text, _ = injected(path.read_text(), backends)
    (spec,) = pods(text)
    for container in [*spec["initContainers"], *spec["containers"]]:
        context = spec["securityContext"] | container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == 1000
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["seccompProfile"]["type"] == "RuntimeDefault"


def test_what_the_engine_has_is_kept_beside_what_is_added(backends: Backends) -> None:
    path = next(path for path in MANIFESTS if path.stem == "statefulset-indented")
    text, _ = injected(path.read_text(), backends)
    (spec,) = pods(text)
    server = next(c for c in spec["containers"] if c["name"] == "server")
    environment = {entry["name"]: entry["value"] for entry in server["env"]}
    assert environment["PYTHONPATH"] == "/opt/rekindle:/app"
    assert server["args"][:3] == ["--model", "/models/m", "--port=8000"]
    assert "RekindleConnector" in server["args"][-1]
    assert "httpGet" not in server["livenessProbe"], "it must not fail because the sidecar is away"
    assert ":9470/engine/livez" in server["livenessProbe"]["exec"]["command"][-1]
    assert [c["name"] for c in spec["initContainers"]] == ["rekindle-shim", "rekindle", "fetch"]


@pytest.mark.parametrize(
    ("text", "changes", "why"),
    [
        (pod('{name: e, image: i, command: [sh, -c, "vllm serve m | tee log"]}'), {}, "a script for a shell"),
        (
            pod("{name: e, image: i, command: [vllm, serve, m, --kv-transfer-config.kv_connector=X]}"),
            {},
            "with another connector",
        ),
        (pod(VLLM, "{name: two, image: i, command: [vllm, serve, n]}"), {}, "vllm and two look like engines"),
        (pod(VLLM), {"container": "other"}, "there is no such container, only vllm"),
        (pod("{name: e, image: i}"), {"container": "e"}, "no plugin knows what it runs"),
        (pod(VLLM), {"backend": "vlm"}, "plugin vlm: there is none"),
        (
            pod(VLLM, "{name: rekindle-x, image: i}", spec="  volumes: [{name: rekindle-run, emptyDir: {}}]"),
            {},
            "taken",
        ),
        (pod(VLLM, spec="  securityContext: {runAsNonRoot: true}"), {}, "a user of its image"),
        (pod(VLLM), {"gpu_mode": GpuMode.DRA}, "it asks for no nvidia.com/gpu"),
        (
            pod(
                "{name: e, image: i, command: [vllm, serve, m], "
                "env: [{name: PYTHONPATH, valueFrom: {configMapKeyRef: {name: a, key: b}}}]}"
            ),
            {},
            "comes from elsewhere",
        ),
    ],
    ids=[
        "shell",
        "connector",
        "two engines",
        "no container",
        "unknown",
        "no plugin",
        "name clash",
        "user",
        "no gpu",
        "path",
    ],
)
def test_what_cannot_be_done_safely_is_refused_and_left_as_it_was(
    text: str, changes: dict[str, Any], why: str, backends: Backends
) -> None:
    result, (done,) = injected(text, backends, **changes)
    assert done.outcome is Outcome.REFUSED
    assert why in " ".join(done.notes)
    assert plain(result) == plain(text)


def test_a_simple_command_in_a_script_is_edited_in_place_and_taken_back(backends: Backends) -> None:
    text = """\
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers:
  - name: vllm
    image: i
    command: [/bin/bash, -exc]
    args:
    - |
      cd /app  # where it is
      vllm serve "${MODEL}" \\
        --port 8000 \\
        --max-model-len 4096
    readinessProbe: {tcpSocket: {port: 8000}}
"""
    result, (done,) = injected(text, backends, proxy=True)
    assert done.outcome is Outcome.INJECTED
    (script,) = plain(result)[0]["spec"]["containers"][0]["args"]
    assert script.startswith(
        'cd /app  # where it is\nvllm serve "${MODEL}" \\\n  --port 9471 \\\n  --max-model-len 4096 --kv-'
    )
    assert script.endswith("'\n")
    assert "    - |\n" in result
    assert plain(result)[0]["spec"]["containers"][0]["readinessProbe"]["tcpSocket"]["port"] == 9471
    stream = Stream.read("manifest", result)
    uninject(stream)
    assert plain(stream.write()) == plain(text)


def test_a_script_that_was_wired_by_hand_is_taken_as_it_is(backends: Backends) -> None:
    command = "[sh, -c, 'vllm serve m --kv-transfer-config {RekindleConnector} | tee log']"
    _, (done,) = injected(pod("{name: e, image: i, command: " + command + "}"), backends)
    assert done.outcome is Outcome.INJECTED
    assert "vLLM's script has the connector already" in done.notes


@pytest.mark.parametrize(
    "text",
    [
        pod("{name: web, image: nginx}"),
        pod(VLLM, head=', annotations: {rekindle.dev/inject: "disabled"}'),
    ],
)
def test_pods_without_an_engine_and_pods_that_say_no_are_skipped_byte_by_byte(text: str, backends: Backends) -> None:
    result, (done,) = injected(text, backends)
    assert done.outcome is Outcome.SKIPPED
    assert result == text


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "just text\n", "- a\n- b\n", "kind: Service\n", "kind: Pod\nspec: 7\n"]
)
def test_what_has_no_pod_passes_through(text: str, backends: Backends) -> None:
    assert injected(text, backends) == (text, [])


def test_another_kind_is_found_by_its_path(backends: Backends) -> None:
    text = "kind: Mine\nspec:\n  groups:\n  - template:\n      spec:\n        containers: [" + VLLM + "]\n"
    unchanged, (done,) = injected(text, backends)
    assert (unchanged, done.outcome) == (text, Outcome.SKIPPED)
    assert "--template-path spec.groups[].template" in done.notes[1]
    result, (done,) = injected(text, backends, template_path=("spec", "groups", "[]", "template"))
    assert done.outcome is Outcome.INJECTED
    stream = Stream.read("manifest", result)
    uninject(stream, ("spec", "groups", "[]", "template"))
    assert plain(stream.write()) == plain(text)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: [1\nb: 2\n", "line 2, column 2"),
        ("a: b\n---\nb: c\n  d: e\n", "line 4, column 4"),
        ("a: b\n---\nx: 'q\n", "line 4, column 1"),
        ("a: *nobody\n", "line 1, column 4"),
    ],
)
def test_broken_yaml_is_told_with_line_and_column(text: str, where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        Stream.read("broken.yaml", text)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('{"version":1', '{"version":9', "injected by rekindle 1"),
        ('{"version":1', '{"vers', "is damaged"),
        ("--kv-transfer-config,", "--kv-other,", "not there any more as it was added"),
        ("name: vllm,", "name: renamed,", "it is not there"),
    ],
)
def test_what_cannot_be_taken_back_exactly_is_told(old: str, new: str, why: str, backends: Backends) -> None:
    text, _ = injected(pod(VLLM), backends)
    assert old in text
    with pytest.raises(ConfigError, match=why):
        uninject(Stream.read("manifest", text.replace(old, new)))


def test_what_was_taken_out_by_hand_is_no_obstacle(backends: Backends) -> None:
    text, _ = injected(pod(VLLM), backends)
    stream = Stream.read("manifest", text)
    stream.documents[0].node["spec"]["initContainers"].clear()
    stream.documents[0].is_changed = True
    again = Stream.read("manifest", stream.write())
    uninject(again)
    assert plain(again.write()) == plain(pod(VLLM))
