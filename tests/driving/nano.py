"""A real nano engine process with Rekindle's plugin (or without)."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from nano_engine.client import Completion, complete

from driving.polling import until
from driving.process import Process, proceed, stop_and_wait

EXAMPLES = Path(__file__).parents[2] / "examples"
TESTS = Path(__file__).parents[1]
START_S = 30.0
PLUGIN = "rekindle_plugins.nano:connect"


class NanoEngine:
    """Keeps its settings over any number of starts, each of which is a fresh engine. `settings`: its flags.

    `plugin`: Rekindle's (True), none (False), or another factory's name.
    """

    program: Sequence[str] = ("-m", "nano_engine")
    """What Python is told to run."""

    def __init__(self, name: str, directory: Path, run_dir: Path, plugin: bool | str = True, **settings: int) -> None:
        self.settings = {"pages": 256, "page_tokens": 16} | settings
        self._run_dir = run_dir
        self.plugin = PLUGIN if plugin is True else plugin
        self._log = directory / f"{name}.log"
        self.process: Process | None = None
        self.url = ""
        self.start_s = 0.0
        """From starting the process to its first readiness to serve."""
        self._began = 0.0
        self.sessions: list[Process] = []

    def start(self, wait: bool = True) -> None:
        argv = [sys.executable, *self.program, "--port", "0"]
        argv += [part for name, value in self.settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        argv += ["--plugin", self.plugin] if self.plugin else []
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(EXAMPLES), str(TESTS)]))
        environ |= {"PYTHONPATH": path, "REKINDLE_RUN_DIR": str(self._run_dir)}
        self._began = time.monotonic()
        self.process = Process(argv, environ, self._log)
        self.sessions.append(self.process)
        if wait:
            self.wait_until_serving()

    def wait_until_serving(self) -> None:
        line = self._process.wait_for_line("listening on ", START_S)
        self.start_s = time.monotonic() - self._began
        self.url = line.split()[2]

    def restart(self) -> None:
        """SIGKILL, and a fresh one."""
        self.kill()
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.is_running

    def output(self) -> str:
        return self._process.output()

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> int:
        self._process.signal(signal.SIGTERM)
        return self._process.wait()

    def freeze(self) -> None:
        stop_and_wait(self.pid)

    def thaw(self) -> None:
        proceed(self.pid)

    def ask(self, prompt: Sequence[int], max_tokens: int = 32, **fields: object) -> Completion:
        """One completion, to its end."""
        return complete(self.url, prompt, max_tokens=max_tokens, **fields)

    def stream(self, prompt: Sequence[int], max_tokens: int = 32) -> Completion:
        """One completion, to be iterated."""
        return Completion(self.url, prompt, max_tokens=max_tokens)

    def reset_prefix_cache(self) -> None:
        request = urllib.request.Request(f"{self.url}/reset_prefix_cache", data=b"", method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def metric(self, name: str) -> int:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.search(rf"^nano_{name} (\d+)$", text, re.MULTILINE)
        assert found is not None, f"no metric {name}"
        return int(found[1])

    def when_metric(self, name: str, value: int, timeout_s: float = 15.0) -> None:
        until(f"nano_{name} to be {value}", lambda: self.metric(name) == value, timeout_s)

    @property
    def _process(self) -> Process:
        assert self.process is not None, "the engine was not started"
        return self.process
