"""Each object is injected as a whole or left as it was, whatever becomes of those beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rekindle.backends import Backends, discover
from rekindle.inject import GpuMode, Options, Outcome, Rewritten, inject, pod, uninject
from rekindle.inject.documents import Stream
from rekindle.inject.kinds import label
from ruamel.yaml import YAML

GOOD = "{apiVersion: v1, kind: Pod, metadata: {name: good}, spec: {containers: [{name: e, image: vllm/vllm-openai}]}}"
BAD = (
    "{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: {containers: "
    '[{name: e, image: i, command: [sh, -c, "vllm serve m | tee x"]}]}}'
)


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def injected(text: str, backends: Backends, **changes: Any) -> tuple[str, list[Rewritten]]:
    stream = Stream.read("manifest", text)
    done = inject(stream, Options(**{"image": "r:1", "version": "1", **changes}), backends)
    return stream.write(), done


def uninjected(text: str) -> str:
    stream = Stream.read("manifest", text)
    uninject(stream)
    return stream.write()


def plain(text: str) -> list[Any]:
    return list(YAML(typ="safe").load_all(text))


def outcomes(done: list[Rewritten]) -> list[tuple[str, str]]:
    return [(result.where, result.outcome.value) for result in done]


def list_of(*items: str) -> str:
    return "apiVersion: v1\nkind: List\nitems:\n" + "".join(f"- {item}\n" for item in items)


def test_one_refusal_in_a_list_is_one_items(backends: Backends) -> None:
    text = list_of(GOOD, BAD)
    once, done = injected(text, backends)
    assert outcomes(done) == [("Pod good", "injected"), ("Pod bad", "refused")]
    assert "a script for a shell" in done[1].notes[0]
    good, bad = plain(once)[0]["items"]
    assert good["spec"]["initContainers"]
    assert bad == plain(text)[0]["items"][1]
    assert injected(once, backends)[0] == once
    assert plain(uninjected(once)) == plain(text)


def test_a_list_of_which_nothing_is_injected_keeps_its_bytes(backends: Backends) -> None:
    text = list_of(BAD, "{kind: Service,   metadata: {name: s}}")
    assert injected(text, backends)[0] == text


def test_all_pods_of_one_object_are_injected_or_none(backends: Backends) -> None:
    text = """\
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: l}
spec:
  leaderWorkerTemplate:
    leaderTemplate: {spec: {containers: [{name: e, image: vllm/vllm-openai}]}}
    workerTemplate: {spec: {containers: [{name: e, image: i, command: [sh, -c, "vllm serve m | tee x"]}]}}
"""
    once, done = injected(text, backends)
    assert once == text
    assert [result.outcome for result in done] == [Outcome.REFUSED, Outcome.REFUSED]
    assert done[0].notes == ("another pod of the same object was refused",)


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "in a list"])
@pytest.mark.parametrize("changes", [{"container": "other"}, {"engine_port": 9470, "proxy": True}, {"http_port": 8000}])
def test_what_was_injected_stays_so_where_it_is_refused_now(
    wrapped: bool, changes: dict[str, Any], backends: Backends
) -> None:
    once, _ = injected(list_of(GOOD) if wrapped else GOOD, backends)
    again, (done,) = injected(once, backends, **changes)
    assert done.outcome is Outcome.REFUSED
    assert done.notes[-1] == "it stays as it was injected before"
    assert again == once


def test_an_engine_that_is_not_found_any_more_is_not_taken_out_silently(backends: Backends) -> None:
    once, _ = injected(GOOD.replace("vllm/vllm-openai", "ours"), backends, backend="vllm")
    again, (done,) = injected(once, backends)
    assert (again, done.outcome) == (once, Outcome.REFUSED)
    assert done.notes == ("no container looks like an engine", "it stays as it was injected before")


def test_a_pod_that_says_no_since_it_was_injected_is_taken_out(backends: Backends) -> None:
    once, _ = injected(GOOD, backends)
    said = once.replace("annotations: {", 'annotations: {rekindle.dev/inject: "disabled", ')
    again, (done,) = injected(said, backends)
    assert done.outcome is Outcome.SKIPPED
    assert "what was injected is taken out" in done.notes
    assert "initContainers" not in again


def test_a_damaged_record_is_one_objects_too(backends: Backends) -> None:
    once, _ = injected(f"{GOOD}\n---\n{GOOD.replace('good', 'other')}\n", backends)
    damaged = once.replace('{"version":1', '{"version":9', 1)
    again, done = injected(damaged, backends)
    assert outcomes(done) == [("Pod good", "refused"), ("Pod other", "injected")]
    assert again == damaged


ODD = {
    "mount": "volumeMounts: [x]",
    "args": "args: --port=1",
    "quantity": "resources: {limits: {nvidia.com/gpu: '{{ .Values.gpus }}'}}",
    "variables": "env: {A: b}",
    "resources": "resources: [1]",
    "context": "securityContext: {runAsUser: root}",
    "volumes": "livenessProbe: {}}], volumes: {a: b}, x: [{a: b",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("proxy", [False, True], ids=["plain", "proxy"])
def test_a_manifest_that_is_not_as_it_should_be_is_refused_alone(odd: str, proxy: bool, backends: Backends) -> None:
    text = f"kind: Pod\nmetadata: {{name: odd}}\nspec: {{containers: [{{name: e, image: vllm/vllm-openai, {odd}}}]}}\n"
    once, done = injected(f"{text}---\n{GOOD}\n", backends, proxy=proxy)
    assert outcomes(done) == [("Pod odd", "refused"), ("Pod good", "injected")]
    assert once.startswith(text)
    assert done[0].notes[0]


def test_a_port_that_is_none_is_refused_where_it_is_to_be_moved(backends: Backends) -> None:
    text = GOOD.replace("vllm-openai}", "vllm-openai, ports: [{containerPort: x}]}")
    assert injected(text, backends)[1][0].outcome is Outcome.INJECTED
    once, (done,) = injected(text, backends, proxy=True)
    assert (once, done.outcome) == (text, Outcome.REFUSED)


def test_a_plugin_that_fails_refuses_its_pod(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setattr(pod, "_wired", broken)
    once, (done,) = injected(GOOD, backends)
    assert (once, done.outcome) == (GOOD, Outcome.REFUSED)
    assert "RuntimeError: no idea" in done.notes[0]


def on_gpus(count: int) -> str:
    limits = f"{{limits: {{nvidia.com/gpu: {count}}}}}"
    return f"{{spec: {{containers: [{{name: e, image: vllm/vllm-openai, resources: {limits}}}]}}}}"


def claims(text: str) -> dict[tuple[str, str], int]:
    """Of each claim template: how many GPUs. By namespace and name."""
    found = {}
    for node in plain(text):
        for item in node.get("items", [node]):
            if item["kind"] == "ResourceClaimTemplate":
                metadata, (request,) = item["metadata"], item["spec"]["spec"]["devices"]["requests"]
                key = (metadata.get("namespace", ""), metadata["name"])
                assert key not in found
                found[key] = request["exactly"]["count"]
    return found


def test_a_claim_template_is_in_its_items_namespace_and_has_its_kind_in_its_name(backends: Backends) -> None:
    deployment = f"{{kind: Deployment, metadata: {{name: x, namespace: a}}, spec: {{template: {on_gpus(2)}}}}}"
    stateful = f"{{kind: StatefulSet, metadata: {{name: x, namespace: a}}, spec: {{template: {on_gpus(4)}}}}}"
    other = deployment.replace("namespace: a", 'namespace: "no"').replace("gpu: 2", "gpu: 8")
    text = list_of(deployment, stateful, other)
    once, _ = injected(text, backends, gpu_mode=GpuMode.DRA)
    assert claims(once) == {
        ("a", "x-deployment-rekindle-gpu"): 2,
        ("a", "x-statefulset-rekindle-gpu"): 4,
        ("no", "x-deployment-rekindle-gpu"): 8,
    }
    assert "namespace: 'no'" in once, "Norway's: others read a boolean"
    assert injected(once, backends, gpu_mode=GpuMode.DRA)[0] == once
    assert plain(uninjected(once)) == plain(text)


def test_two_claim_templates_of_one_name_are_refused(backends: Backends) -> None:
    one = f"kind: Deployment\nmetadata: {{name: a.b}}\nspec: {{template: {on_gpus(1)}}}\n"
    other = one.replace("a.b", "a-b").replace("gpu: 1", "gpu: 2")
    once, done = injected(f"{one}---\n{other}", backends, gpu_mode=GpuMode.DRA)
    assert outcomes(done) == [("Deployment a.b", "injected"), ("Deployment a-b", "refused")]
    assert claims(once) == {("", "a-b-deployment-rekindle-gpu"): 1}


def test_leader_and_worker_have_claim_templates_of_their_own(backends: Backends) -> None:
    text = f"""\
kind: LeaderWorkerSet
metadata: {{name: l}}
spec: {{leaderWorkerTemplate: {{leaderTemplate: {on_gpus(8)}, workerTemplate: {on_gpus(4)}}}}}
---
kind: DynamoGraphDeployment
metadata: {{name: d}}
spec: {{components: [{{name: Prefill, podTemplate: {on_gpus(1)}}}, {{podTemplate: {on_gpus(2)}}}]}}
"""
    once, _ = injected(text, backends, gpu_mode=GpuMode.DRA)
    found = {
        "l-leaderworkerset-leader-rekindle-gpu": 8,
        "l-leaderworkerset-worker-rekindle-gpu": 4,
        "d-dynamographdeployment-prefill-rekindle-gpu": 1,
        "d-dynamographdeployment-1-rekindle-gpu": 2,
    }
    assert claims(once) == {("", name): count for name, count in found.items()}
    named = [
        pod["spec"]["resourceClaims"][0]["resourceClaimTemplateName"]
        for pod in (
            plain(once)[0]["spec"]["leaderWorkerTemplate"]["leaderTemplate"],
            plain(once)[0]["spec"]["leaderWorkerTemplate"]["workerTemplate"],
            *(component["podTemplate"] for component in plain(once)[1]["spec"]["components"]),
        )
    ]
    assert named == list(found)
    assert plain(uninjected(once)) == plain(text)


def test_a_name_is_a_dns_label_and_two_long_ones_stay_apart() -> None:
    long = "model-" * 12
    first, second = label(long, "deployment", "rekindle-gpu"), label(long, "statefulset", "rekindle-gpu")
    assert first != second
    assert max(len(first), len(second)) <= 63
    assert first == label(long, "deployment", "rekindle-gpu")
    assert label("My.Model_1", "", "Pod") == "my-model-1-pod"


def test_the_claims_of_what_stays_as_it_was_stay_too(backends: Backends) -> None:
    one = f"kind: Deployment\nmetadata: {{name: one}}\nspec: {{template: {on_gpus(1)}}}\n"
    two = one.replace("name: one", "name: two").replace("name: e,", "name: f,")
    text = f"{one}---\n{two}"
    once, _ = injected(text, backends, gpu_mode=GpuMode.DRA)
    again, done = injected(once, backends, gpu_mode=GpuMode.DRA, container="e")
    assert outcomes(done) == [("Deployment one", "injected"), ("Deployment two", "refused")]
    assert claims(again) == claims(once)
    assert injected(again, backends, gpu_mode=GpuMode.DRA, container="e")[0] == again
    assert plain(uninjected(again)) == plain(text)
    without, _ = injected(once, backends, gpu_mode=GpuMode.NONE)
    assert claims(without) == {}


def test_claim_templates_that_came_into_a_list_are_taken_out_of_it(backends: Backends) -> None:
    text = f"kind: Deployment\nmetadata: {{name: one}}\nspec: {{template: {on_gpus(1)}}}\n"
    once, _ = injected(text, backends, gpu_mode=GpuMode.DRA)
    listed = list_of(*(json.dumps(node) for node in plain(once)))
    assert plain(uninjected(listed))[0]["items"] == plain(text)
    again, _ = injected(listed, backends, gpu_mode=GpuMode.DRA)
    assert len(claims(again)) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kind: DynamoGraphDeployment\nmetadata: {name: d}\nspec: {services: {A: {extraPodSpec: {}}}}\n", "v1beta1"),
        ("kind: LLMInferenceService\nmetadata: {name: l}\nspec: {template: {containers: []}}\n", "webhook"),
        ("kind: InferenceService\nmetadata: {name: i}\nspec: {predictor: {model: {args: []}}}\n", "serving runtime"),
        ("kind: Mine\nspec: {a: [{b: {spec: {containers: [{image: i}]}}}]}\n", "--template-path spec.a[].b"),
        ("kind: Mine\nspec: {containers: [{image: i}]}\n", "--template-path ."),
        ("kind: Mine\nspec: {pod: {containers: [{image: i}]}}\n", "webhook"),
    ],
)
def test_a_kind_whose_pods_are_not_known_gets_a_hint(text: str, why: str, backends: Backends) -> None:
    once, (done,) = injected(text, backends)
    assert (once, done.outcome) == (text, Outcome.SKIPPED)
    assert why in " ".join(done.notes)
