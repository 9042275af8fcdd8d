"""Driving a prefill and a decode engine, each in a pod of its own with a sidecar, and what stands between them.

NIXL_PATH is a folder with nixl for the engines' Python; it is put on their PYTHONPATH (see `VllmEngine`).
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driving import Sidecar
from vllm_driving import ANSWER_S, START_S, Launcher, Stream, VllmEngine, VllmPod, free_port

NIXL: dict[str, Any] = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}
ASK_PREFILL: dict[str, Any] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def composed(*children: dict[str, Any], role: str = "kv_both") -> dict[str, Any]:
    """The configuration of a MultiConnector with these children, all of them in one role."""
    return {
        "kv_connector": "MultiConnector",
        "kv_role": role,
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"connectors": [child | {"kv_role": role} for child in children]},
    }


class DisaggregatedEngine(VllmEngine):
    """One of the two. Every start has another side channel."""

    def begin(self, **flags: Any) -> None:
        self.environ["VLLM_NIXL_SIDE_CHANNEL_HOST"] = "127.0.0.1"
        self.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(free_port())
        super().begin(**flags)


class PatientStream(Stream):
    """Of a client that also waits while an engine starts."""

    timeout_s = START_S + ANSWER_S


class Side:
    """A pod with one engine behind the sidecar's proxy. `core`: the processor core that it computes on."""

    def __init__(self, launcher: Launcher, model: Path, core: int, transfer: dict[str, Any], **flags: Any) -> None:
        self.port, engine_port = free_port(), free_port()
        proxy = f"127.0.0.1:{self.port}=http://127.0.0.1:{engine_port}"
        self.pod = VllmPod(launcher, proxy=proxy, proxy_wait="10m")
        self.engine = DisaggregatedEngine(launcher, model, self.pod, kv_transfer_config=transfer, **flags)
        self.engine.fixed_port = engine_port
        self.engine.environ["VLLM_CPU_OMP_THREADS_BIND"] = str(core)
        self.pod.engines.append(self.engine)

    @property
    def sidecar(self) -> Sidecar:
        return self.pod.sidecar

    @property
    def pages(self) -> int:
        """How many are stored."""
        return self.sidecar.store().pages

    def stream(self, prompt: Sequence[int], max_tokens: int, **fields: Any) -> Stream:
        """Through the proxy."""
        return PatientStream(self, prompt, max_tokens, **fields)

    def hand_over(self, prompt: Sequence[int], **fields: Any) -> dict[str, Any]:
        """The first step, through the proxy: what goes into the second one's request."""
        plain = {"model": "m", "prompt": list(prompt), "max_tokens": 1, "temperature": 0, "stream": False}
        body = json.dumps(plain | fields | {"kv_transfer_params": ASK_PREFILL})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PatientStream.timeout_s)
        try:
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, f"HTTP {answer.status}: {text[:2000].decode(errors='replace')}"
            return json.loads(text)["kv_transfer_params"]
        finally:
            connection.close()


class Pair:
    """Use as a context manager. The sidecars serve; no engine has been started."""

    def __init__(self, launcher: Launcher, model: Path, prefill: dict[str, Any], decode: dict[str, Any]) -> None:
        self.prefill = Side(launcher, model, 0, prefill, max_num_batched_tokens=256)
        self.decode = Side(launcher, model, 1, decode)

    def start(self) -> Pair:
        """Those engines that are not running, both at once."""
        fresh = [side.engine for side in (self.prefill, self.decode) if not side.engine.is_running]
        for engine in fresh:
            engine.begin()
        for engine in fresh:
            engine.wait_until_serving()
        return self

    def __enter__(self) -> Pair:
        try:
            for side in (self.prefill, self.decode):
                side.sidecar.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for side in (self.prefill, self.decode):
            side.pod.__exit__(*error)
