"""What is added to a pod, as plain values: volumes, the shim's init container, the sidecar, and the engine's settings.

    volume           mounted in               what for
    rekindle-run     sidecar, engine          sockets. World-writable as all emptyDirs; ours is a private folder in it
    rekindle-store   sidecar                  the arena: memory, which counts against whoever wrote it, the sidecar
    rekindle-shim    init, engine (read-only) the plugins' engine half, copied out of the sidecar's image

The sidecar is a native one: an init container that keeps running (Kubernetes 1.29). It starts before the engine, ends
after it, and none of its probes depends on the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.adapter import RUN_DIR_VARIABLE

HTTP_PORT = 9470
SIDECAR, SHIM_INIT = "rekindle", "rekindle-shim"
RUN_VOLUME, STORE_VOLUME, SHIM_VOLUME = "rekindle-run", "rekindle-store", "rekindle-shim"
RUN_MOUNT, STORE_MOUNT, SHIM_MOUNT = "/run/rekindle", "/var/lib/rekindle", "/opt/rekindle"
RUN_DIR, STORE_DIR = f"{RUN_MOUNT}/private", f"{STORE_MOUNT}/store"
CLAIM = "rekindle-gpu"
OVERHEAD_BYTES = 512 << 20
"""What the sidecar may need beside the arena: interpreter, catalog, copiers."""
STORE_SLACK_BYTES = 64 << 20
"""What the store's volume holds beside the arena."""
PROXY_BYTES = 768 << 20
"""What the stream proxy may need: an interpreter, and all that it keeps of answers (`proxy.limits`)."""
LAST_PRIVILEGED_PORT = 1023

Values = dict[str, Any]


@dataclass(frozen=True)
class Takeover:
    """The service's port and the engine's new one."""

    port: int
    engine_port: int
    listen_host: str
    engine_host: str
    is_declared: bool
    """Whether the engine's container says that it has the port; then nobody else has to."""

    @property
    def route(self) -> str:
        """The sidecar's setting `proxy`."""
        return f"{self.listen_host}:{self.port}=http://{self.engine_host}:{self.engine_port}"


@dataclass(frozen=True)
class Sidecar:
    """What is decided about one pod's sidecar."""

    image: str
    store_size_bytes: int
    uid: int
    """The engine's: the sidecar has to have the same one."""
    gpu_environment: bool = False
    """Sees the node's GPUs through the container runtime, without asking Kubernetes for one."""
    gpu_claims: tuple[str, ...] = ()
    """The resource claims by which it shares the engine's GPUs."""
    shm: Values | None = None
    """The engine's mount at /dev/shm, where it has one, as the sidecar gets it."""
    http_port: int = HTTP_PORT
    """Where it serves its probes and metrics."""
    proxy: Takeover | None = None
    """The service's port, where the stream proxy takes it over."""


def quantity(size_bytes: int) -> str:
    """As Kubernetes writes bytes, in the largest unit that divides them."""
    for shift, unit in ((30, "Gi"), (20, "Mi"), (10, "Ki")):
        if size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{unit}"
    return str(size_bytes)


def volumes(sidecar: Sidecar) -> list[Values]:
    size = quantity(sidecar.store_size_bytes + STORE_SLACK_BYTES)
    return [
        {"name": SHIM_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": STORE_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": size}},
        {"name": RUN_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}},
    ]


def security(uid: int, port: int = LAST_PRIVILEGED_PORT + 1) -> Values:
    """What the restricted Pod Security Standard asks for; a root engine's sidecar cannot have all of it.

    `port`: the lowest one that it listens on. The standard lets a container have the right to a privileged one.
    """
    more = {"add": ["NET_BIND_SERVICE"]} if port <= LAST_PRIVILEGED_PORT else {}
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], **more},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": uid != 0,
        "runAsUser": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def shim_container(sidecar: Sidecar) -> Values:
    """Copies the engine half to where the engine finds it, and ends."""
    small = {"cpu": "100m", "memory": "128Mi"}
    return {
        "name": SHIM_INIT,
        "image": sidecar.image,
        "command": ["rekindle", "stage", SHIM_MOUNT],
        "resources": {"requests": small, "limits": {"memory": "128Mi"}},
        "securityContext": security(sidecar.uid),
        "volumeMounts": [{"name": SHIM_VOLUME, "mountPath": SHIM_MOUNT}],
    }


def sidecar_container(sidecar: Sidecar) -> Values:
    proxy = sidecar.proxy
    size_bytes = sidecar.store_size_bytes + STORE_SLACK_BYTES + OVERHEAD_BYTES + (PROXY_BYTES if proxy else 0)
    memory = quantity(size_bytes)
    ports = [{"name": "rekindle-http", "containerPort": sidecar.http_port}]
    environment = [
        {"name": RUN_DIR_VARIABLE, "value": RUN_DIR},
        {"name": "REKINDLE_STORE_DIR", "value": STORE_DIR},
        {"name": "REKINDLE_STORE_SIZE", "value": str(sidecar.store_size_bytes)},
        {"name": "REKINDLE_HTTP", "value": f"0.0.0.0:{sidecar.http_port}"},
    ]
    if proxy:
        environment.append({"name": "REKINDLE_PROXY", "value": proxy.route})
    if proxy and not proxy.is_declared:
        ports.append({"name": "rekindle-proxy", "containerPort": proxy.port})
    if sidecar.gpu_environment:
        environment.append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"})
        environment.append({"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"})
    mounts = [
        {"name": RUN_VOLUME, "mountPath": RUN_MOUNT},
        {"name": STORE_VOLUME, "mountPath": STORE_MOUNT},
    ]
    if sidecar.shm:
        mounts.append(sidecar.shm)
    resources: Values = {"requests": {"cpu": "100m", "memory": memory}, "limits": {"memory": memory}}
    if sidecar.gpu_claims:
        resources["claims"] = [{"name": name} for name in sidecar.gpu_claims]
    return {
        "name": SIDECAR,
        "image": sidecar.image,
        "restartPolicy": "Always",
        "command": ["rekindle", "serve"],
        "env": environment,
        "ports": ports,
        "startupProbe": probe("/readyz", sidecar.http_port, period_s=1, failures=60),
        "livenessProbe": probe("/livez", sidecar.http_port, period_s=10, failures=3),
        "readinessProbe": probe("/readyz", sidecar.http_port, period_s=10, failures=3),
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "NotRequired"}],
        "resources": resources,
        "securityContext": security(sidecar.uid, proxy.port) if proxy else security(sidecar.uid),
        "volumeMounts": mounts,
    }


ENGINE_PROBE = """\
import urllib.error, urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:PORT/engine/livez", timeout=3)
except urllib.error.HTTPError as error:
    raise SystemExit(error.code == 503)
except OSError:
    pass
"""
"""Fails for a hang alone, as the sidecar on PORT sees it.

A plain HTTP probe would fail while the sidecar is away, and have a healthy engine killed.
"""


def engine_probe(port: int) -> Values:
    """Runs in the engine's container, which has Python: the shim needs it."""
    return {
        "exec": {"command": ["python3", "-c", ENGINE_PROBE.replace("PORT", str(port))]},
        "periodSeconds": 10,
        "failureThreshold": 3,
        "timeoutSeconds": 5,
    }


def probe(path: str, port: int, period_s: int, failures: int) -> Values:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_s,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }


def engine_mounts() -> list[Values]:
    return [
        {"name": SHIM_VOLUME, "mountPath": SHIM_MOUNT, "readOnly": True},
        {"name": RUN_VOLUME, "mountPath": RUN_MOUNT},
    ]


def claim_template(name: str, namespace: str, count: int) -> Values:
    """The GPUs of one pod, for all its containers that name the claim (resource.k8s.io/v1, Kubernetes 1.34)."""
    metadata: Values = {"name": name, "annotations": {}}
    if namespace:
        metadata["namespace"] = namespace
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": count}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": metadata,
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
