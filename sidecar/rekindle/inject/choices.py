"""What is decided about one pod's sidecar: how it sees the engine's GPUs, whose user it has, what memory it shares."""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from rekindle_plugins.contract.errors import ConfigError

from rekindle.inject import additions
from rekindle.inject.edits import Edits
from rekindle.inject.engine import EngineContainer

GPU_RESOURCE = "nvidia.com/gpu"
GPU_SLICE = "nvidia.com/mig-"
RUNTIME_CLASSES = ("nvidia", "nvidia-cdi", "nvidia-legacy")
"""Of NVIDIA's container runtime; the first is the one that is set where the pod names none."""
SHM = "/dev/shm"


class GpuMode(enum.Enum):
    """How the sidecar comes to see the engine's GPUs."""

    AUTO = "auto"
    """ENV where the engine asks for GPUs, else NONE."""
    DRA = "dra"
    ENV = "env"
    NONE = "none"


def gpu(edits: Edits, engine: EngineContainer, mode: GpuMode, notes: list[str]) -> tuple[GpuMode, tuple[str, ...]]:
    """How the sidecar sees GPUs, AUTO decided, and the claims by which it does; the pod's own settings for it are made.

    Raises ConfigError where that mode is not for this pod.
    """
    gpus, claims, slices = gpu_count(engine), _claims(engine), _slices(engine)
    if mode is GpuMode.AUTO:
        mode = GpuMode.ENV if gpus else GpuMode.NONE
        if slices and not gpus:
            notes.append(
                f"it asks for {slices[0]}: how to share a part of a GPU is not known, so the sidecar sees none, and "
                "GPU memory is not checkpointed; --gpu-mode env shows it all of the node's"
            )
    if mode is GpuMode.DRA and not gpus and not claims:
        raise ConfigError("inject", f"container {engine.name}", f"it asks for no {GPU_RESOURCE}", "use --gpu-mode none")
    if mode is GpuMode.NONE:
        if claims:
            hint = "--gpu-mode dra shares them with the sidecar"
            notes.append(f"its devices come by claims ({', '.join(claims)}): {hint}")
        return mode, ()
    _share_processes(edits, notes)
    if mode is GpuMode.ENV:
        _use_runtime(edits)
        notes.append("the sidecar sees every GPU of its node (--gpu-mode env); dra shares the engine's alone")
    notes.append("GPU memory has been run over a stand-in for the driver only, not on a GPU yet")
    return mode, () if mode is GpuMode.ENV else (additions.CLAIM,) if gpus else claims


def _share_processes(edits: Edits, notes: list[str]) -> None:
    """A pod that has its node's processes may not share its own as well; it does not have to."""
    if edits.spec.get("hostPID"):
        notes.append("the pod has its node's processes (hostPID), with which CUDA's memory handles work, too")
        return
    edits.set_value(("shareProcessNamespace",), True)
    notes.append("the containers share one process namespace: CUDA's memory handles need it")


def _use_runtime(edits: Edits) -> None:
    given = edits.spec.get("runtimeClassName")
    if not given:
        edits.set_value(("runtimeClassName",), RUNTIME_CLASSES[0])
    elif given not in RUNTIME_CLASSES:
        problem = f"it is {given}, and --gpu-mode env needs {RUNTIME_CLASSES[0]}"
        raise ConfigError("inject", "runtimeClassName", problem, "use --gpu-mode dra, or none for memory of the CPU's")


def user(spec: Any, engine: EngineContainer, told: int | None, notes: list[str]) -> int:
    """The engine's: its container's, its pod's, or the user's word (`told`); root where nobody says.

    Raises ConfigError where it is another one, and its number is not known.
    """
    given = _of_contexts(spec, engine, "runAsUser")
    uid = int(given) if given is not None else told
    if uid is None:
        if _of_contexts(spec, engine, "runAsNonRoot"):
            problem = "it runs as a user of its image that the manifest does not name"
            raise ConfigError("inject", f"container {engine.name}", problem, "name the user's number with --engine-uid")
        notes.append("no manifest names the engine's user: root is assumed; if its image has a USER, give --engine-uid")
    if not uid:
        notes.append("the sidecar runs as root, as the engine does: not within the restricted security standard")
    return uid or 0


def shared_memory(engine: EngineContainer) -> additions.Values | None:
    """The engine's mount at /dev/shm, as the sidecar is to have it; None where it has none."""
    for mount in engine.node.get("volumeMounts") or ():
        if posixpath.normpath(str(mount.get("mountPath") or "")) != SHM:
            continue
        if mount.get("subPathExpr"):
            problem = f"its {SHM} is mounted by subPathExpr, whose variables the sidecar does not have"
            raise ConfigError("inject", f"container {engine.name}", problem, "name the folder with subPath")
        part = {"subPath": str(mount["subPath"])} if mount.get("subPath") else {}
        return {"name": str(mount["name"]), "mountPath": SHM, **part}
    return None


def is_guaranteed(spec: Any) -> bool:
    """Whether the pod's class of service is Guaranteed: all that its containers ask for is also their limit."""
    containers = [node for key in ("containers", "initContainers") for node in spec.get(key) or ()]
    for container in containers:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            if name not in limits or str(requests.get(name, limits[name])) != str(limits[name]):
                return False
    return bool(containers)


def gpu_count(engine: EngineContainer) -> int:
    return max((int(count or 0) for name, count in _asked(engine) if name == GPU_RESOURCE), default=0)


def _slices(engine: EngineContainer) -> list[str]:
    return sorted({name for name, _ in _asked(engine) if name.startswith(GPU_SLICE)})


def _asked(engine: EngineContainer) -> Iterator[tuple[str, Any]]:
    """What its container asks for, by name."""
    resources = engine.node.get("resources") or {}
    for part in ("limits", "requests"):
        yield from ((str(name), count) for name, count in (resources.get(part) or {}).items())


def _claims(engine: EngineContainer) -> tuple[str, ...]:
    """The resource claims that it names already."""
    resources = engine.node.get("resources") or {}
    return tuple(str(claim["name"]) for claim in resources.get("claims") or ())


def _of_contexts(spec: Any, engine: EngineContainer, name: str) -> Any:
    """A setting of the security context: the container's goes before the pod's. None where neither has it."""
    contexts = (engine.node.get("securityContext"), spec.get("securityContext"))
    given = [context.get(name) for context in contexts if isinstance(context, Mapping)]
    return next((value for value in given if value is not None), None)
