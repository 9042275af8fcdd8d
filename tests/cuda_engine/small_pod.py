"""A sidecar and engines as real processes, driven with nothing but the standard library and the nano engine's client.

For machines with a GPU, which may have neither the sidecar's nor the tests' dependencies.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nano_engine.client import Completion, complete

ROOT = Path(__file__).parents[2]
PATHS = [ROOT / "tests", ROOT / "examples", ROOT / "plugins", ROOT / "sidecar"]
PAUSE_S = 0.002

T = TypeVar("T")


def until(what: str, probe: Callable[[], T], timeout_s: float = 30.0) -> T:
    deadline = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(PAUSE_S)
    return found


class SmallPod:
    """Use as a context manager. `memory` is "torch" or "stand-in", `sharing` a kind of GPU memory."""

    def __init__(self, memory: str, sharing: str, salvage_budget_s: float = 2.0, **settings: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rk-"))
        self.store_dir = Path(tempfile.mkdtemp(prefix="rk-", dir="/dev/shm"))
        self.settings = {"pages": 256} | settings
        paths = [*map(str, PATHS), os.environ.get("PYTHONPATH", "")]
        self._environ = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "REKINDLE_RUN_DIR": str(self.directory),
            "CUDA_ENGINE_MEMORY": memory,
            "CUDA_ENGINE_SHARING": sharing,
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = ""
        self.engine: subprocess.Popen[bytes] | None = None
        arguments = [str(self.directory), str(self.store_dir), str(salvage_budget_s)]
        self.sidecar = self._start("sidecar.log", "cuda_engine.sidecar", arguments)
        self._line(self.sidecar, "sidecar.log", "serving")

    def start_engine(self) -> None:
        name = f"engine{len(self._processes)}.log"
        arguments = ["--port", "0", "--plugin", "cuda_engine.shim:connect"]
        arguments += [f"--{key.replace('_', '-')}={value}" for key, value in self.settings.items()]
        self.engine = self._start(name, "cuda_engine", arguments)
        self.url = self._line(self.engine, name, "listening on ").split()[2]

    def kill_engine(self) -> None:
        """SIGKILL. Returns when the process is gone."""
        assert self.engine is not None
        self.engine.kill()
        self.engine.wait()

    def ask(self, prompt: Sequence[int], max_tokens: int) -> Completion:
        return complete(self.url, prompt, max_tokens=max_tokens)

    def stream(self, prompt: Sequence[int], max_tokens: int) -> Completion:
        return Completion(self.url, prompt, max_tokens=max_tokens)

    def status(self) -> Any:
        try:
            return json.loads((self.directory / "status.json").read_text())
        except FileNotFoundError:
            return {"engines": [], "recovery": None}

    def copiers(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.sidecar.pid}/task/{self.sidecar.pid}/children").read_text().split()
        ]

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.directory.glob("*.log"))

    def _start(self, log: str, module: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.directory / log).open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], stdout=output, stderr=output, env=self._environ
            )
        self._processes.append(process)
        return process

    def _line(self, process: subprocess.Popen[bytes], log: str, start: str) -> str:
        def find() -> str:
            text = (self.directory / log).read_text()
            assert process.poll() is None, text[-3000:]
            return next((line for line in text.splitlines() if line.startswith(start)), "")

        return until(f"{start!r} of {log}", find, 120.0)

    def __enter__(self) -> SmallPod:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            print(self.logs())
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.store_dir, ignore_errors=True)
