"""A real `rekindle run` with a nano engine: the supervisor, its sidecar, and whichever engine it has started last."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from nano_engine.client import Completion, complete
from rekindle.admin.client import AdminClient
from rekindle.lifecycle.status import KeeperStatus

from driving.nano import EXAMPLES, TESTS
from driving.polling import until
from driving.process import Process

START_S = 60.0
END_S = 60.0


class Start(NamedTuple):
    """One start of the engine: its number (from 1), its process, where it serves."""

    number: int
    pid: int
    url: str

    def ask(self, prompt: Sequence[int], max_tokens: int = 32) -> Completion:
        return complete(self.url, prompt, max_tokens=max_tokens)

    def stream(self, prompt: Sequence[int], max_tokens: int = 32) -> Completion:
        return Completion(self.url, prompt, max_tokens=max_tokens)


class Supervised:
    """Use as a context manager: on leaving, every process that came of it is killed. `flags`: of `rekindle run`."""

    def __init__(self, **flags: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rk-"))
        self.store_dir = Path(tempfile.mkdtemp(prefix="rk-", dir="/dev/shm"))
        self._flags = {"store_size": "16MiB", "http": "off", "restart_delay": "0.05"} | flags
        self._process: Process | None = None

    def start(self, plugin: str = "") -> None:
        """`plugin`: instead of the one that `rekindle run` adds."""
        argv = [sys.executable, "-m", "rekindle.cli", "run", "--run-dir", str(self.directory / "run")]
        argv += ["--store-dir", str(self.store_dir)]
        argv += [part for name, value in self._flags.items() for part in (f"--{name.replace('_', '-')}", value)]
        argv += ["--", sys.executable, "-m", "nano_engine", "--port", "0", *(["--plugin", plugin] if plugin else [])]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(EXAMPLES), str(TESTS)]))
        environ |= {"PYTHONPATH": path, "TEST_MARK": str(self.directory)}
        self._process = Process(argv, environ, self.directory / "run.log")

    @property
    def process(self) -> Process:
        assert self._process is not None, "it was not started"
        return self._process

    def output(self) -> str:
        return self.process.output()

    def engine(self, number: int = 1) -> Start:
        """That start of the engine, once it serves."""

        def find() -> Start | None:
            text = self.output()
            assert self.process.is_running, f"`rekindle run` ended with {self.process.exit_code}:\n{text[-3000:]}"
            _, began, rest = text.partition(f", start {number}\n")
            pid = re.search(rf"engine started: pid (\d+), start {number}\n", text)
            url = re.search(r"^listening on (\S+) after", rest, re.MULTILINE) if began else None
            return Start(number, int(pid[1]), url[1]) if pid and url else None

        found = until(f"start {number} of the engine", find, START_S)
        assert found is not None
        return found

    def status(self) -> KeeperStatus:
        with AdminClient(self.directory / "run" / "admin.sock") as client:
            return client.status()

    def terminate(self) -> int:
        """SIGTERM to the supervisor alone; its exit code."""
        self.process.signal(signal.SIGTERM)
        return self.process.wait(END_S)

    def members(self) -> list[int]:
        """Every process that came of it."""
        mark = f"TEST_MARK={self.directory}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def __enter__(self) -> Supervised:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._process is not None:
            print(self.output()[-8000:])
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.kill_session()
        until("everything to be gone", lambda: not self.members())
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.store_dir, ignore_errors=True)
