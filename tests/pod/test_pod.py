"""A pod of real containers: the engine's is killed, the runtime restarts it, its pages come back, a stream goes on.

The manifest is a plain Pod that `rekindle inject --proxy` has changed. What `podman kube play` does not know is then
changed in it, and nothing else: native sidecars (ours is listed under `containers`), HTTP probes (it would run curl
inside), annotations of more than 63 characters, and ports under hostNetwork.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE, ENGINE, SIDECAR
from containers.podman import Podman
from driving import Reference, StreamClient, until
from driving.proxied import free_port
from driving.reference import prompt
from nano_engine.client import Completion, complete
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
ANSWERS = (1000, 2000, 3500)
"""Tokens of the answers in whose middle the engine is to be killed: the next one where the last was over too soon."""
PATIENCE_S = 240.0
"""For anything that containers do on a machine that has much else to do."""
BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""What decides how numpy computes: the same in the container as in the reference."""


@dataclass(frozen=True)
class Ports:
    """The pod has this machine's network."""

    service: int
    engine: int
    http: int


def injected(text: str, ports: Ports) -> str:
    """Through the real command, and then without what the runtime does not know."""
    command = [sys.executable, "-m", "rekindle.cli", "inject", "--image", SIDECAR, "--store-size", "64Mi"]
    command += ["--proxy", "--engine-port", str(ports.engine), "--http-port", str(ports.http)]
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
    engine = spec["containers"][1]
    engine["env"] += [{"name": name, "value": os.environ[name]} for name in BLAS if name in os.environ]
    out = io.StringIO()
    yaml.dump(pod, out)
    return out.getvalue()


def answered(port: int, path: str) -> str:
    """The body of a good answer, "" for everything else."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode() if answer.status == 200 else ""
    except OSError:
        return ""


def told(ports: Ports, name: str) -> float:
    """The sum of one of the proxy's metrics, over its labels; -1 while the sidecar does not answer."""
    text = answered(ports.http, "/metrics")
    values = re.findall(rf"^rekindle_proxy_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, values)) if text else -1.0


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


class RunningPod:
    """The injected pod, driven from outside as its clients and its kubelet would."""

    def __init__(self, podman: Podman, ports: Ports) -> None:
        self.podman = podman
        self.ports = ports
        self.requests = 0
        """That have been sent to the proxy."""

    @property
    def engine_pid(self) -> int:
        """Of the engine container's first process; 0 while there is none."""
        return int(self.podman.inspect("nano-engine")["State"]["Pid"])

    def kill_engine(self) -> None:
        """Returns when the runtime has started the container again, however long that takes on a busy machine."""
        pid = self.engine_pid
        os.kill(pid, signal.SIGKILL)
        until("the runtime to restart the engine's container", lambda: self.engine_pid not in (0, pid), PATIENCE_S)

    def complete(self, question: Sequence[int]) -> Completion:
        self.requests += 1
        return complete(f"http://127.0.0.1:{self.ports.service}", question, max_tokens=32, timeout_s=PATIENCE_S)

    def stream(self, question: Sequence[int], max_tokens: int) -> StreamClient:
        self.requests += 1
        return StreamClient(self.ports.service, question, max_tokens, return_token_ids=True)

    def resumed(self) -> int:
        """How many answers went on after a death, once the proxy has told of all requests to their ends."""

        def all_told() -> bool:
            return told(self.ports, "requests_total") >= self.requests and told(self.ports, "in_flight") == 0

        until("the proxy to tell of its requests", all_told, PATIENCE_S)
        return int(told(self.ports, "resumed_total"))


@pytest.fixture
def pod(podman: Podman, tmp_path: Path) -> Iterator[RunningPod]:
    ports = Ports(free_port(), free_port(), free_port())
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(injected(MANIFEST.format(image=ENGINE, port=ports.service), ports))
    print(manifest.read_text())
    podman("kube", "play", str(manifest))
    try:
        until("the engine to serve", lambda: answered(ports.engine, "/health"), PATIENCE_S)
        until("the proxy to listen", lambda: answered(ports.service, "/health"), PATIENCE_S)
        yield RunningPod(podman, ports)
    finally:
        for container in ("nano-rekindle", "nano-engine"):
            print(podman.logs(container)[-5000:])


def test_a_killed_engine_container_comes_back_with_its_pages_and_its_stream_goes_on(
    pod: RunningPod, reference: Reference
) -> None:
    question = prompt(400)
    answer = pod.complete(question)
    assert (answer.token_ids, answer.cached_tokens) == (reference.tokens(question), 0)
    until("the pages to be stored", lambda: checkpointed(pod.podman), PATIENCE_S)
    for seed, tokens in enumerate(ANSWERS, start=1):
        asked = prompt(100, seed)
        client = pod.stream(asked, tokens)
        client.when(20)
        pod.kill_engine()
        until("the stream's end", lambda client=client: client.is_over, PATIENCE_S)
        client.finished()
        assert client.tokens == reference.tokens(asked, tokens)
        assert client.finish == "length"
        if pod.resumed():
            break
    else:
        pytest.fail(f"even an answer of {ANSWERS[-1]} tokens was over before its engine was killed")
    again = pod.complete(question)
    assert again.token_ids == reference.tokens(question)
    assert again.cached_tokens == 384, "24 whole pages of 16 tokens, in a container that never computed them"


def checkpointed(podman: Podman) -> int:
    """Pages that are stored, once none is pending; 0 before the sidecar serves: here it starts beside the engine."""
    try:
        engines = json.loads(podman("exec", "nano-rekindle", "rekindle", "status", "-o", "json"))["engines"]
    except AssertionError:
        return 0
    return 0 if not engines or engines[0]["pages"]["pending"] else int(engines[0]["pages"]["checkpointed"])
