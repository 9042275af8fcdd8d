"""What is decided about a sidecar (GPUs, the runtime's class, the user, shared memory), and what the report says."""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest
from rekindle.backends import Backends, discover
from rekindle.inject import GpuMode, Options, Outcome, Rewritten
from rekindle.inject.documents import Document
from rekindle.inject.rewrite import inject_object

VLLM = {"name": "engine", "image": "i", "command": ["vllm", "serve", "m"]}
ON_GPU = {**VLLM, "resources": {"limits": {"nvidia.com/gpu": 1}}}
ASSUMED = "no manifest names the engine's user: root is assumed; if its image has a USER, give --engine-uid"
AS_ROOT = "the sidecar runs as root, as the engine does: not within the restricted security standard"
NOT_ON_A_GPU = "GPU memory has been run over a stand-in for the driver only, not on a GPU yet"


@pytest.fixture(scope="module")
def backends() -> Backends:
    return discover()


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [*containers], **spec}}


def tried(pod: dict[str, Any], backends: Backends, **changes: Any) -> tuple[dict[str, Any], Rewritten]:
    document = Document("", copy.deepcopy(pod))
    (done,), _ = inject_object(document, Options(**{"image": "r:1", "version": "1", **changes}), backends)
    if done.outcome is Outcome.INJECTED:
        kubernetes_validate.validate(document.node, "1.34", strict=True)
    return document.node, done


def sidecar(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = [node for node in pod["spec"]["initContainers"] if node["name"] == "rekindle"]
    return dict(found)


@pytest.mark.parametrize("mode", [GpuMode.AUTO, GpuMode.DRA])
def test_a_pod_with_its_nodes_processes_does_not_share_its_own(mode: GpuMode, backends: Backends) -> None:
    changed, done = tried(pod(ON_GPU, hostPID=True), backends, gpu_mode=mode)
    assert done.outcome is Outcome.INJECTED
    assert "shareProcessNamespace" not in changed["spec"], "the API server takes only one of the two"
    assert any("hostPID" in note for note in done.notes)
    changed, _ = tried(pod(ON_GPU), backends, gpu_mode=mode)
    assert changed["spec"]["shareProcessNamespace"] is True


@pytest.mark.parametrize("name", ["nvidia", "nvidia-cdi"])
def test_a_runtime_class_of_nvidias_is_kept(name: str, backends: Backends) -> None:
    changed, _ = tried(pod(ON_GPU, runtimeClassName=name), backends)
    assert changed["spec"]["runtimeClassName"] == name


def test_another_runtime_class_is_kept_and_the_mode_that_needs_nvidias_refused(backends: Backends) -> None:
    given = pod(ON_GPU, runtimeClassName="kata-qemu")
    changed, done = tried(given, backends)
    assert (changed, done.outcome) == (given, Outcome.REFUSED)
    assert done.notes[0] == "runtimeClassName: it is kata-qemu, and --gpu-mode env needs nvidia"
    assert "--gpu-mode dra, or none" in done.notes[1]
    for mode in (GpuMode.DRA, GpuMode.NONE):
        changed, done = tried(given, backends, gpu_mode=mode)
        assert changed["spec"]["runtimeClassName"] == "kata-qemu"


def test_the_report_says_what_has_not_been_run_on_a_gpu(backends: Backends) -> None:
    for mode in (GpuMode.AUTO, GpuMode.DRA):
        assert NOT_ON_A_GPU in tried(pod(ON_GPU), backends, gpu_mode=mode)[1].notes
    assert NOT_ON_A_GPU not in tried(pod(VLLM), backends)[1].notes


def test_a_part_of_a_gpu_is_not_shared_unless_it_is_asked_for(backends: Backends) -> None:
    given = pod({**VLLM, "resources": {"limits": {"nvidia.com/mig-3g.40gb": 1}}})
    changed, done = tried(given, backends)
    assert "runtimeClassName" not in changed["spec"]
    assert any("nvidia.com/mig-3g.40gb" in note and "--gpu-mode env" in note for note in done.notes)
    changed, done = tried(given, backends, gpu_mode=GpuMode.ENV)
    assert changed["spec"]["runtimeClassName"] == "nvidia"
    assert NOT_ON_A_GPU in done.notes


@pytest.mark.parametrize(
    ("of_pod", "of_container", "told", "uid", "notes"),
    [
        (None, None, None, 0, [ASSUMED, AS_ROOT]),
        (None, None, 2000, 2000, []),
        (None, None, 0, 0, [AS_ROOT]),
        ({"runAsUser": 0}, None, None, 0, [AS_ROOT]),
        ({"runAsUser": 1000}, {"runAsUser": 1001}, 2000, 1001, []),
        ({"runAsUser": 1000}, {"runAsUser": None}, None, 1000, []),
        ({"runAsNonRoot": True}, None, 2000, 2000, []),
        ({"runAsNonRoot": True}, {"runAsNonRoot": False}, None, 0, [ASSUMED, AS_ROOT]),
    ],
)
def test_the_sidecar_has_the_engines_user(
    of_pod: Any, of_container: Any, told: int | None, uid: int, notes: list[str], backends: Backends
) -> None:
    changed, done = tried(
        pod({**VLLM, "securityContext": of_container}, securityContext=of_pod), backends, engine_uid=told
    )
    assert sidecar(changed)["securityContext"]["runAsUser"] == uid
    assert [note for note in done.notes if note in (ASSUMED, AS_ROOT)] == notes


@pytest.mark.parametrize("contexts", [({"runAsNonRoot": True}, None), (None, {"runAsNonRoot": True})])
def test_a_user_that_is_only_known_not_to_be_root_is_asked_for(contexts: tuple[Any, Any], backends: Backends) -> None:
    of_pod, of_container = contexts
    _, done = tried(pod({**VLLM, "securityContext": of_container}, securityContext=of_pod), backends)
    assert done.outcome is Outcome.REFUSED
    assert "--engine-uid" in done.notes[1]


SHM = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ({"mountPath": "/dev/shm"}, {"mountPath": "/dev/shm"}),
        ({"mountPath": "/dev/shm/"}, {"mountPath": "/dev/shm"}),
        ({"mountPath": "/dev/shm", "subPath": "a", "readOnly": True}, {"mountPath": "/dev/shm", "subPath": "a"}),
        ({"mountPath": "/dev/shm/mine"}, None),
    ],
    ids=str,
)
def test_shared_memory_is_mounted_as_the_engine_has_it(
    mount: dict[str, Any], expected: dict[str, Any] | None, backends: Backends
) -> None:
    changed, _ = tried(pod({**VLLM, "volumeMounts": [{"name": "shm", **mount}]}, volumes=SHM), backends)
    found = [mount for mount in sidecar(changed)["volumeMounts"] if mount["name"] == "shm"]
    assert found == ([{"name": "shm", **expected}] if expected else [])


def test_shared_memory_whose_folder_is_not_known_is_refused(backends: Backends) -> None:
    mounts = [{"name": "shm", "mountPath": "/dev/shm", "subPathExpr": "$(POD_NAME)"}]
    _, done = tried(pod({**VLLM, "volumeMounts": mounts}, volumes=SHM), backends)
    assert done.outcome is Outcome.REFUSED
    assert "subPathExpr" in done.notes[0]


def test_of_two_variables_of_one_name_the_one_that_counts_is_changed(backends: Backends) -> None:
    twice = [{"name": "PYTHONPATH", "value": "/a"}, {"name": "PYTHONPATH", "value": "/b"}]
    changed, _ = tried(pod({**VLLM, "env": twice}), backends)
    env = changed["spec"]["containers"][0]["env"]
    assert [entry["value"] for entry in env if entry["name"] == "PYTHONPATH"] == ["/a", "/opt/rekindle:/b"]


def test_a_pod_that_loses_its_guarantee_is_told_of(backends: Backends) -> None:
    limits = {"cpu": 4, "memory": "8Gi"}
    note = "the pod was Guaranteed and becomes Burstable: the sidecar has no limit for CPU"
    for resources in ({"limits": limits}, {"limits": limits, "requests": {"cpu": "4", "memory": "8Gi"}}):
        assert note in tried(pod({**VLLM, "resources": resources}), backends)[1].notes
    for resources in ({}, {"limits": {"cpu": 4}}, {"limits": limits, "requests": {"cpu": 1}}):
        assert note not in tried(pod({**VLLM, "resources": resources}), backends)[1].notes
    both = pod({**VLLM, "resources": {"limits": limits}}, {"name": "other", "image": "i"})
    assert note not in tried(both, backends)[1].notes
