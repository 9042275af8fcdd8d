"""A real process of the stand-in, over any number of starts."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from driving import Pod, until
from driving.process import Process

TESTS = Path(__file__).parents[1]
START_S = 60.0


class Answer(NamedTuple):
    tokens: list[int]
    found: int
    """Prompt tokens in the engine's own prefix cache."""
    loaded: int
    """Prompt tokens that the connector put in place."""


class TrtEngine:
    """`flags`: of `python -m trt_engine`. `variables`: TLLM_REKINDLE_… without the prefix."""

    def __init__(self, pod: Pod, model: Path, variables: dict[str, str] | None = None, **flags: object) -> None:
        pod._engines.append(self)  # type: ignore[arg-type]  # to be ended with the pod
        self.sessions: list[Process] = []
        self.pod = pod
        self._flags = {"model": model} | flags
        self.variables = variables or {}
        self._log = pod.directory / f"trt-engine{len(pod._engines)}.log"
        self._port = free_port()
        self.process: Process | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        argv = [sys.executable, "-m", "trt_engine", "--port", str(self._port)]
        argv += [part for name, value in self._flags.items() for part in (f"--{name}", str(value))]
        environ = {name: value for name, value in os.environ.items() if "REKINDLE_" not in name}
        paths = [os.environ.get("PYTHONPATH"), str(TESTS), str(TESTS.parent / "examples")]
        environ |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        environ |= {"TLLM_REKINDLE_RUN_DIR": str(self.pod.sidecar.run_dir)}
        environ |= {f"TLLM_REKINDLE_{name}": value for name, value in self.variables.items()}
        self.process = Process(argv, environ, self._log)
        self.sessions.append(self.process)
        self.process.wait_for_line("listening on ", START_S)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()

    def restart(self) -> None:
        self.kill()
        self.pod.sidecar.when_released()
        self.start()

    def output(self) -> str:
        assert self.process is not None
        return self.process.output()

    def ask(self, prompt: Sequence[int], max_tokens: int = 32, **fields: object) -> Answer:
        body = {"prompt": list(prompt), "max_tokens": max_tokens, **fields}
        return Answer(**self._get("/v1/completions", json.dumps(body).encode()))

    def counts(self) -> Any:
        return self._get("/counts")

    def seen(self, prompt: Sequence[int]) -> list[int]:
        """What has been generated for a prompt so far."""
        return list(self._get("/progress").get(str(list(prompt)), []))[len(prompt) :]

    @contextmanager
    def generating(self, prompt: Sequence[int], max_tokens: int, seen: int) -> Iterator[None]:
        """With a request under way of which so many tokens are known. It may be cut by a kill."""

        def ask() -> None:
            try:
                self.ask(prompt, max_tokens)
            except OSError:
                return

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        until(f"{seen} tokens to be generated", lambda: len(self.seen(prompt)) >= seen, 60.0)
        yield
        thread.join(60.0)

    def _get(self, path: str, data: bytes | None = None) -> Any:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=60.0) as answer:
            return json.loads(answer.read())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_model(folder: Path, weights: bytes = b"weights") -> Path:
    """A folder that looks like a model's. The stand-in computes with the nano engine's weights in any case."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["NanoForCausalLM"]}))
    (folder / "model.bin").write_bytes(weights)
    return folder
