"""Brings up disaggregated serving on a CPU: a router, a prefill and a decode engine, a Rekindle sidecar beside each.

    make disaggregated                     the whole of it; Ctrl-C ends it
    make disaggregated-kill SIDE=decode    in another terminal: SIGKILL to one of the engines

    clients ──▶ router ──1──▶ prefill's proxy ──▶ prefill engine
                      └──2──▶ decode's proxy  ──▶ decode engine ◀──NIXL── prefill engine

The router is vLLM's (`vllm-router`). It talks to the sidecars' proxies and never sees an engine die. `rekindle run`
puts RekindleConnector beside the NixlConnector of the engines' commands, and starts an engine anew that has died.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = Path(tempfile.gettempdir()) / f"rekindle-disaggregated-{os.getuid()}"
START_S = 600.0
ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}
ROUTER = [
    "--vllm-pd-disaggregation",
    # The proxies hold a request until its engine is back. A router that gives up, or sends its second step again, does
    # harm: the pages that it names may be gone by then.
    *("--disable-circuit-breaker", "--disable-retries", "--health-failure-threshold", "1000000"),
    *("--request-timeout-secs", "3600", "--log-level", "warning"),
]


@dataclass(frozen=True)
class Ports:
    """`proxy` is where a side's clients talk to it. `side_channel` is NIXL's."""

    proxy: int
    engine: int
    side_channel: int


def engine_command(python: str, model: Path, port: int, role: str) -> list[str]:
    """Any vLLM command with a NixlConnector. Nothing in it is for Rekindle."""
    nixl = {"kv_connector": "NixlConnector", "kv_role": ROLES[role], "kv_buffer_device": "cpu"}
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "m"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--kv-transfer-config", json.dumps(nixl)]
    command += ["--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-model-len", "4096"]
    return [*command, "--num-gpu-blocks-override", "512"]


def side_command(python: str, model: Path, role: str, ports: Ports) -> list[str]:
    """The engine under `rekindle run`."""
    proxy = f"127.0.0.1:{ports.proxy}=http://127.0.0.1:{ports.engine}"
    run = [sys.executable, "-m", "rekindle.cli", "run", "--run-dir", str(STATE / role), "--http", "off"]
    run += ["--store-dir", f"/dev/shm/{STATE.name}-{role}", "--store-size", "96MiB", "--proxy", proxy]
    return [*run, "--", *engine_command(python, model, ports.engine, role)]


def side_environment(nixl: str, core: int, side_channel: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}
    return kept | {
        "PYTHONPATH": nixl,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_channel),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


class Serving:
    """The three processes. Each leads a session of its own; their output goes to files beside the state."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        with (STATE / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
            )

    def wait(self, what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not is_there():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                raise SystemExit(f"{what} did not come: see {STATE}/*.log")
            time.sleep(0.2)

    def stay(self) -> None:
        self._processes[0].wait()

    def end(self) -> None:
        """SIGTERM to all, so that `rekindle run` ends its engine; what does not go is killed."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200)
    return False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True, help="of an environment with vLLM")
    parser.add_argument("--nixl", required=True, help="a folder with nixl for that Python")
    parser.add_argument("--router", required=True, help="vLLM's router: the command vllm-router")
    parser.add_argument("--model", type=Path, help="a model's folder; default: a small one with random weights")
    parser.add_argument("--port", type=int, default=8100, help="the router's; the six after it are taken, too")
    given = parser.parse_args()
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(mode=0o700)
    model = given.model or STATE / "model"
    if given.model is None:
        subprocess.run([given.python, str(ROOT / "examples" / "make_model.py"), str(model)], check=True)
    sides = {role: Ports(*range(given.port + 1 + i, given.port + 7, 2)) for i, role in enumerate(ROLES)}
    serving = Serving()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for core, (role, ports) in enumerate(sides.items()):
            environment = side_environment(given.nixl, core, ports.side_channel)
            serving.start(role, side_command(given.python, model, role, ports), environment)
        for role, ports in sides.items():
            serving.wait(f"the {role} engine", lambda ports=ports: answers(ports.engine))  # type: ignore[misc]
        urls = {role: f"http://127.0.0.1:{ports.proxy}" for role, ports in sides.items()}
        router = [given.router, "--host", "127.0.0.1", "--port", str(given.port), *ROUTER]
        # A port for its metrics of its own: its default may be taken.
        router += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(given.port + 7)]
        router += ["--prefill", urls["prefill"], "--decode", urls["decode"]]
        serving.start("router", router, dict(os.environ))
        serving.wait("the router", lambda: answers(given.port))
        print(f"serving model m at http://127.0.0.1:{given.port}/v1 (logs: {STATE}/*.log)", flush=True)
        serving.stay()
    except KeyboardInterrupt:
        pass
    finally:
        serving.end()
        for role in ROLES:
            shutil.rmtree(f"/dev/shm/{STATE.name}-{role}", ignore_errors=True)


if __name__ == "__main__":
    main()
