"""A pod of real containers: the engine's is killed, the runtime restarts it, its pages come back.

The manifest is a plain Pod that `rekindle inject` has changed. What `podman kube play` does not know is then changed in
it, and nothing else: native sidecars (ours is listed under `containers`), HTTP probes (it would run curl inside),
annotations of more than 63 characters, and ports under hostNetwork.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE, ENGINE, SIDECAR
from containers.podman import Podman
from driving import Reference, until
from driving.reference import prompt
from nano_engine.client import complete
from ruamel.yaml import YAML

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  name: nano
spec:
  hostNetwork: true
  restartPolicy: Always
  containers:
  - name: engine
    image: {image}
    command: [python3, -m, nano_engine]
    args: [--host, 127.0.0.1, --port, "{port}"]
"""
BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""What decides how numpy computes: the same in the container as in the reference."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def injected(text: str, http_port: int) -> str:
    """Through the real command, and then without what the runtime does not know."""
    command = [sys.executable, "-m", "rekindle.cli", "inject", "--image", SIDECAR, "--store-size", "64Mi"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    yaml = YAML(typ="safe")
    pod: dict[str, Any] = yaml.load(done.stdout)
    spec = pod["spec"]
    (sidecar,) = [container for container in spec["initContainers"] if container["name"] == "rekindle"]
    spec["initContainers"].remove(sidecar)
    del sidecar["restartPolicy"]
    spec["containers"].insert(0, sidecar)
    # An init container that is removed when it has ended: podman 4.3 sometimes does so before it has.
    pod["metadata"]["annotations"] = {"io.podman.annotations.init.container.type": "always"}
    for container in spec["containers"]:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(probe, None)
        container.pop("ports", None)
    for entry in sidecar["env"]:
        if entry["name"] == "REKINDLE_HTTP":
            entry["value"] = f"127.0.0.1:{http_port}"
    engine = spec["containers"][1]
    engine["env"] += [{"name": name, "value": os.environ[name]} for name in BLAS if name in os.environ]
    out = io.StringIO()
    yaml.dump(pod, out)
    return out.getvalue()


def serves(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return int(answer.status) == 200
    except (OSError, urllib.error.URLError):
        return False


def test_the_image_has_no_rights_no_torch_and_says_its_version(podman: Podman) -> None:
    (image,) = json.loads(podman("image", "inspect", SIDECAR))
    (base,) = json.loads(podman("image", "inspect", BASE))
    print(f"sidecar image: {image['Size'] / 1e6:.0f} MB, {(image['Size'] - base['Size']) / 1e6:.0f} MB above its base")
    assert image["Config"]["User"] == "65532:65532"
    assert image["Config"]["Labels"]["org.opencontainers.image.version"] == "1"
    run = ("run", "--rm", "--network", "none", "--read-only", "--cap-drop", "all", SIDECAR)
    assert "contract" in podman(*run, "rekindle", "version")
    packages = podman(*run, "sh", "-c", "ls /opt/rekindle-env/lib/*/site-packages")
    assert "rekindle" in packages
    assert "torch" not in packages


def test_an_engine_container_that_is_killed_comes_back_with_its_pages(
    podman: Podman, tmp_path: Path, reference: Reference
) -> None:
    port, http_port = free_port(), free_port()
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(injected(MANIFEST.format(image=ENGINE, port=port), http_port))
    print(manifest.read_text())
    podman("kube", "play", str(manifest))
    try:
        until("the engine to serve", lambda: serves(port), 60)
        question = prompt(400)
        answer = complete(f"http://127.0.0.1:{port}", question, max_tokens=32)
        assert (answer.token_ids, answer.cached_tokens) == (reference.tokens(question), 0)
        until("the pages to be stored", lambda: checkpointed(podman), 60)
        first = podman.inspect("nano-engine")["State"]["Pid"]
        os.kill(first, signal.SIGKILL)
        until("the runtime to restart it", lambda: podman.inspect("nano-engine")["State"]["Pid"] not in (0, first), 60)
        until("the engine to serve again", lambda: serves(port), 60)
        again = complete(f"http://127.0.0.1:{port}", question, max_tokens=32)
        assert again.token_ids == reference.tokens(question)
        assert again.cached_tokens == 384, "24 whole pages of 16 tokens, in a container that never computed them"
    finally:
        for container in ("nano-rekindle", "nano-engine"):
            print(podman("logs", container)[-3000:])


def checkpointed(podman: Podman) -> int:
    """Pages that are stored, once none is pending; 0 before the sidecar serves: here it starts beside the engine."""
    try:
        engines = json.loads(podman("exec", "nano-rekindle", "rekindle", "status", "-o", "json"))["engines"]
    except AssertionError:
        return 0
    return 0 if not engines or engines[0]["pages"]["pending"] else int(engines[0]["pages"]["checkpointed"])
