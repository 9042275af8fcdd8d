"""Driving a prefill and a decode engine, each in a pod of its own with a sidecar, and what stands between them.

NIXL_PATH is a folder with nixl for the engines' Python; it is put on their PYTHONPATH (see `VllmEngine`).
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_driving import ANSWER_S, REKINDLE, Launcher, Session, Stream, VllmEngine, VllmPod, free_port

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
    """The configuration of a MultiConnector with these children."""
    return {
        "kv_connector": "MultiConnector",
        "kv_role": role,
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"connectors": [{**child, "kv_role": role} for child in children]},
    }


class DisaggregatedEngine(VllmEngine):
    """One of the two. Every start has another side channel."""

    def begin(self, **flags: Any) -> None:
        self.environ["VLLM_NIXL_SIDE_CHANNEL_HOST"] = "127.0.0.1"
        self.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(free_port())
        super().begin(**flags)


class Side:
    """A pod with one engine. `core`: the processor core that it computes on."""

    def __init__(self, launcher: Launcher, model: Path, core: int, transfer: dict[str, Any], proxied: bool) -> None:
        self.engine_port, self.proxy_port = free_port(), free_port()
        proxy = {"proxy": f"127.0.0.1:{self.proxy_port}=http://127.0.0.1:{self.engine_port}", "proxy_wait": "10m"}
        self.pod = VllmPod(launcher, **(proxy if proxied else {}))
        self.engine = DisaggregatedEngine(launcher, model, self.pod, kv_transfer_config=transfer)
        self.engine.fixed_port = self.engine_port
        self.engine.environ["VLLM_CPU_OMP_THREADS_BIND"] = str(core)
        self.pod.engines.append(self.engine)
        self.pod.sidecar.start()


class Pair:
    """Use as a context manager. Nothing but the sidecars is started."""

    def __init__(
        self, launcher: Launcher, model: Path, prefill: dict[str, Any], decode: dict[str, Any], proxied: bool = True
    ) -> None:
        self.sides = [Side(launcher, model, core, config, proxied) for core, config in ((0, prefill), (1, decode))]
        self.prefill, self.decode = (side.engine for side in self.sides)

    def start(self) -> Pair:
        for side in self.sides:
            side.engine.begin()
        for side in self.sides:
            side.engine.wait_until_serving()
        return self

    def hand_over(self, prompt: Sequence[int], **fields: Any) -> dict[str, Any]:
        """The first step, asked of the prefill engine itself: what goes into the second one's request."""
        return post(self.prefill.port, prefill_request(prompt, **fields))["kv_transfer_params"]

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *error: object) -> None:
        for side in self.sides:
            side.pod.__exit__(*error)

    def logs(self) -> dict[str, str]:
        names = ("prefill", "decode")
        return {f"{n} {k}": text for n, s in zip(names, self.sides, strict=True) for k, text in s.pod.logs().items()}


def prefill_request(prompt: Sequence[int], **fields: Any) -> dict[str, Any]:
    plain = {"model": "m", "prompt": list(prompt), "max_tokens": 1, "temperature": 0, "stream": False}
    return plain | fields | {"kv_transfer_params": dict(ASK_PREFILL)}


def post(port: int, body: dict[str, Any], path: str = "/v1/completions") -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, f"HTTP {answer.status}: {text[:2000].decode(errors='replace')}"
        return json.loads(text)
    finally:
        connection.close()


__all__ = ["NIXL", "REKINDLE", "Pair", "Session", "Stream", "composed", "post", "prefill_request"]
