"""A real engine process with its KV cache in GPU memory."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from driving import NanoEngine, Pod
from driving.process import Process

TESTS = Path(__file__).parents[1]


class CudaEngine(NanoEngine):
    """As `NanoEngine`. `memory` is "stand-in" or "torch", `sharing` a kind of GPU memory."""

    def __init__(self, pod: Pod, memory: str, sharing: str, **settings: int) -> None:
        super().__init__(f"cuda-engine{len(pod._engines)}", pod.directory, pod.sidecar.run_dir, **settings)
        pod._engines.append(self)
        self._environ = {"CUDA_ENGINE_MEMORY": memory, "CUDA_ENGINE_SHARING": sharing}

    def start(self, wait: bool = True) -> None:
        argv = [sys.executable, "-m", "cuda_engine", "--port", "0", "--plugin", "cuda_engine.shim:connect"]
        argv += [part for name, value in self.settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}
        paths = [os.environ.get("PYTHONPATH"), str(TESTS), str(TESTS.parent / "examples")]
        environ |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "REKINDLE_RUN_DIR": str(self._run_dir)}
        self._began = time.monotonic()
        self.process = Process(argv, environ | self._environ, self._log)
        self.sessions.append(self.process)
        if wait:
            self.wait_until_serving()
