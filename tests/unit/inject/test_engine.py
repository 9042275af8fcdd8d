"""Which container is the engine: routers, caches and schedulers beside it are not, whatever they are called."""

from __future__ import annotations

from typing import Any

import pytest
from rekindle.backends import Backends, discover
from rekindle.inject import Options, Outcome, inject
from rekindle.inject.documents import Document, Stream
from rekindle.inject.rewrite import inject_object

REDIS = "kind: Pod\nmetadata: {name: redis}\nspec: {containers: [{name: redis, image: redis}]}\n"
OURS = "kind: Pod\nmetadata: {name: ours}\nspec: {containers: [{name: e, image: ours:1, args: [--model, m]}]}\n"


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def outcomes(text: str, backends: Backends, **changes: Any) -> dict[str, Outcome]:
    stream = Stream.read("manifest", text)
    done = inject(stream, Options(**{"image": "r:1", "version": "1", **changes}), backends)
    return {result.where: result.outcome for result in done}


def test_a_plugin_that_was_named_is_for_a_pod_that_is_alone(backends: Backends) -> None:
    assert outcomes(OURS, backends, backend="vllm") == {"Pod ours": Outcome.INJECTED}
    both = f"{OURS}---\n{REDIS}"
    assert outcomes(both, backends, backend="vllm") == {"Pod ours": Outcome.SKIPPED, "Pod redis": Outcome.SKIPPED}
    named = outcomes(both, backends, backend="vllm", container="e")
    assert named == {"Pod ours": Outcome.INJECTED, "Pod redis": Outcome.REFUSED}


def test_a_plugin_that_was_named_is_for_one_of_many_pods_where_it_recognises_it(backends: Backends) -> None:
    text = f"{OURS.replace('ours:1', 'vllm/vllm-openai:v0.32.0')}---\n{REDIS}"
    assert outcomes(text, backends, backend="vllm") == {"Pod ours": Outcome.INJECTED, "Pod redis": Outcome.SKIPPED}


def test_a_webhook_sees_one_pod_of_many(backends: Backends) -> None:
    (document,) = Stream.read("manifest", REDIS).documents
    (done,), _ = inject_object(Document("", document.node), Options("r:1", "1", backend="vllm"), backends)
    assert done.outcome is Outcome.SKIPPED
    assert "--container" in done.notes[0]


@pytest.mark.parametrize(
    "image",
    [
        "vllm/vllm-openai",
        "vllm/vllm-openai:v0.32.0",
        "registry.example:5000/mirror/vllm-openai@sha256:0123",
        "vllm/vllm-openai-rocm:v0.32.0",
        "registry.example/llm-d/llm-d:v0.5.0",
        "registry.example/llm-d/llm-d-cuda-dev:v0.5.0",
    ],
)
def test_images_that_start_vllm_are_known_by_their_whole_name(image: str, backends: Backends) -> None:
    text = f'kind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: e, image: "{image}"}}]}}\n'
    assert outcomes(text, backends) == {"Pod p": Outcome.INJECTED}


@pytest.mark.parametrize(
    "name",
    [
        "llm-d-inference-scheduler:v0.5.0",
        "llm-d-routing-sidecar:v0.5.0",
        "llm-d-inference-sim",
        "llm-d-router-endpoint-picker",
        "vllm-openai-router:1",
        "not-vllm-openai",
    ],
)
def test_images_whose_names_begin_the_same_are_not_engines(name: str, backends: Backends) -> None:
    text = f"""\
kind: Pod
metadata: {{name: p}}
spec:
  containers:
  - {{name: other, image: "registry.example/llm-d/{name}", args: [--port=8000]}}
"""
    assert outcomes(text, backends) == {"Pod p": Outcome.SKIPPED}
    beside = text + '  - {name: e, image: "registry.example/llm-d/llm-d-cuda:v0.5.0", args: [--model, m]}\n'
    assert outcomes(beside, backends) == {"Pod p": Outcome.INJECTED}
