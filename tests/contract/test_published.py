"""Manifests of the shapes that are published (`published/README.md`), and what becomes of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from driving.manifests import CORE, VERSIONS, check_references
from rekindle.backends import Backends, discover
from rekindle.config import parse_proxy
from rekindle.inject import GpuMode, Options, Outcome, Rewritten, inject, uninject
from rekindle.inject.documents import Stream
from rekindle.inject.kinds import pod_templates
from ruamel.yaml import YAML

FOLDER = Path(__file__).parent / "published"
IN_PLACE = ("kserve-runtime",)
"""Of a kind that we do not know, with the pod's spec in its own: `--template-path .`."""
HTTP_PORTS = {"vllm-docs-other-gpu": 9480}
"""Of those that have their node's network."""
INJECTED = {
    "anchored": "0.0.0.0:8000=http://127.0.0.1:9471",
    "gateway-extension": "0.0.0.0:8000=http://127.0.0.1:9471",
    "kserve-container": "0.0.0.0:8080=http://127.0.0.1:9471",
    "kserve-runtime": "0.0.0.0:8080=http://127.0.0.1:9471",
    "llm-d-claims": "0.0.0.0:8000=http://127.0.0.1:9471",
    "llm-d-decode": "0.0.0.0:8200=http://127.0.0.1:9471",
    "llm-d-transfer": "0.0.0.0:8000=http://127.0.0.1:9471",
    "production-stack-offload": "0.0.0.0:8000=http://127.0.0.1:9471",
    "production-stack-engine": "0.0.0.0:8000=http://127.0.0.1:9471",
    "production-stack-script": "is no port",
    "trtllm-serve": "0.0.0.0:8000=http://127.0.0.1:9471",
    "vllm-docs-cpu": "0.0.0.0:8000=http://127.0.0.1:9471",
    "vllm-docs-gpu": "0.0.0.0:8000=http://127.0.0.1:9471",
    "vllm-docs-other-gpu": "its node's network",
}
"""With the proxy: its route, or why there cannot be one."""
LEFT_ALONE = {
    "dynamo-v1alpha1": (Outcome.SKIPPED, "write it as v1beta1"),
    "dynamo-v1beta1": (Outcome.SKIPPED, "no container looks like an engine"),
    "kserve-llm": (Outcome.SKIPPED, "let the webhook inject the pods"),
    "kserve-model": (Outcome.SKIPPED, "its container is in a serving runtime"),
    "lws-triton": (Outcome.SKIPPED, "no container looks like an engine"),
    "lws-vllm": (Outcome.REFUSED, "add to the engine's command in it: --kv-transfer-config"),
    "trtllm-serve-config": (Outcome.REFUSED, "kv_connector_config: {connector_module:"),
}
"""What the report says of it."""


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def read(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text()


def path_of(name: str) -> tuple[str, ...] | None:
    return () if name in IN_PLACE else None


def injected(name: str, text: str, backends: Backends, **changes: Any) -> tuple[str, list[Rewritten]]:
    stream = Stream.read(name, text)
    given = {"image": "r:1", "version": "1", "template_path": path_of(name), "http_port": HTTP_PORTS.get(name)}
    options = Options(**{**given, **changes})
    done = inject(stream, options, backends)
    return stream.write(), done


def plain(text: str) -> list[Any]:
    return list(YAML(typ="safe").load_all(text))


def test_every_file_has_an_expectation() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*INJECTED, *LEFT_ALONE}
    assert len(INJECTED) >= 12


@pytest.mark.parametrize("mode", [GpuMode.AUTO, GpuMode.DRA])
@pytest.mark.parametrize("proxy", [False, True], ids=["plain", "proxy"])
@pytest.mark.parametrize("name", INJECTED)
def test_it_is_injected_valid_the_same_when_done_twice_and_taken_back(
    name: str, proxy: bool, mode: GpuMode, backends: Backends
) -> None:
    original = read(name)
    text, done = injected(name, original, backends, proxy=proxy, gpu_mode=mode)
    outcomes = {result.outcome for result in done}
    told = " ".join(note for result in done for note in result.notes)
    if proxy and "=" not in INJECTED[name]:
        assert outcomes == {Outcome.REFUSED}
        assert INJECTED[name] in told
        assert text == original
        return
    if mode is GpuMode.DRA and "nvidia.com/gpu" not in original and "claims:" not in original:
        assert outcomes == {Outcome.REFUSED}
        assert "it asks for no nvidia.com/gpu" in told
        return
    assert outcomes == {Outcome.INJECTED}, told
    for node in plain(text):
        if node["kind"] in CORE:
            for version in VERSIONS if "resourceClaims" not in text else VERSIONS[-1:]:
                kubernetes_validate.validate(node, version, strict=True)
        for pod in pod_templates(node, path_of(name)):
            claims = node["spec"].get("volumeClaimTemplates", ())
            check_references(pod.spec, [claim["metadata"]["name"] for claim in claims])
            check_pod(pod.spec, INJECTED[name] if proxy else "")
    assert injected(name, text, backends, proxy=proxy, gpu_mode=mode)[0] == text
    stream = Stream.read(name, text)
    uninject(stream, path_of(name))
    assert plain(stream.write()) == plain(original)


def check_pod(spec: dict[str, Any], route: str) -> None:
    sidecar = next(node for node in spec["initContainers"] if node["name"] == "rekindle")
    assert [node["name"] for node in spec["initContainers"]][:2] == ["rekindle-shim", "rekindle"]
    variables = {entry["name"]: entry["value"] for entry in sidecar["env"]}
    assert variables.get("REKINDLE_PROXY", "") == route
    (engine,) = [node for node in spec["containers"] if "REKINDLE_RUN_DIR" in str(node.get("env"))]
    assert engine["livenessProbe"]["exec"]["command"][0] == "python3"
    if route:
        parsed = parse_proxy(route)
        assert parsed is not None
        names = {
            port["name"]
            for port in engine.get("ports", ())
            if port["containerPort"] == parsed.listen.port and "name" in port
        }
        for probe in ("startupProbe", "readinessProbe"):
            port = engine.get(probe, {}).get("httpGet", {}).get("port")
            assert port not in {parsed.listen.port, *names}, f"{probe} asks the proxy"
        words = " ".join([*engine.get("command", ()), *engine.get("args", ())])
        assert "9471" in words


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_it_is_left_byte_by_byte_with_the_reason(name: str, backends: Backends) -> None:
    outcome, reason = LEFT_ALONE[name]
    for proxy in (False, True):
        text, done = injected(name, read(name), backends, proxy=proxy)
        assert text == read(name)
        outcomes = {result.outcome for result in done}
        assert outcome in outcomes
        assert outcomes - {Outcome.SKIPPED} == {outcome} - {Outcome.SKIPPED}
        assert reason in " ".join(note for result in done for note in result.notes)


def test_claims_that_are_there_already_are_shared(backends: Backends) -> None:
    text, (done,) = injected("llm-d-claims", read("llm-d-claims"), backends)
    assert "--gpu-mode dra shares them" in " ".join(done.notes)
    text, _ = injected("llm-d-claims", read("llm-d-claims"), backends, gpu_mode=GpuMode.DRA)
    spec = plain(text)[0]["spec"]["template"]["spec"]
    sidecar = next(node for node in spec["initContainers"] if node["name"] == "rekindle")
    assert sidecar["resources"]["claims"] == [{"name": "devices"}, {"name": "network"}]
    assert len(spec["resourceClaims"]) == 2
    assert len(plain(text)) == 2, "no further claim template"


def test_what_the_recipe_says_leads_to_an_injected_pod(backends: Backends) -> None:
    """The refused ones, after their users did what they were told."""
    config = '{"kv_connector":"NixlConnector", "kv_role":"kv_both"}'
    both = '{"kv_connector":"MultiConnector","kv_connector_extra_config":{"connectors":["RekindleConnector"]}}'
    by_hand = {
        "llm-d-transfer": (config, both),
        "lws-vllm": (
            "--pipeline_parallel_size 2",
            """--kv-transfer-config '{\\"kv_connector\\":\\"RekindleConnector\\"}'""",
        ),
        "trtllm-serve-config": (
            "          resources:",
            "          env: [{name: TLLM_REKINDLE_RUN_DIR, value: /run/rekindle/private}]\n          resources:",
        ),
    }
    for name, (old, new) in by_hand.items():
        text = read(name)
        assert old in text
        _, done = injected(name, text.replace(old, new), backends)
        assert Outcome.INJECTED in {result.outcome for result in done}, done
        assert Outcome.REFUSED not in {result.outcome for result in done}
