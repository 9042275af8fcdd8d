"""A sidecar as a child process, for the demo and the benchmarks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rekindle_plugins.contract.errors import UnavailableError

from rekindle.demo.engines import _die_with

START_TIMEOUT_S = 30.0
_POLL_S = 0.01


class SidecarProcess:
    """`rekindle serve` in a folder of its own. The store goes to shared memory when there is room, as in a pod."""

    def __init__(
        self, home: Path, store_size: str = "256MiB", store_dir: Path | None = None, proxy: str = "off"
    ) -> None:
        self.run_dir = home / "run"
        self.log = home / "sidecar.log"
        self.store_dir = store_dir or home / "store"
        self._store_size = store_size
        self._proxy = proxy
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when it serves. Raises UnavailableError."""
        parent = os.getpid()
        argv = [sys.executable, "-m", "rekindle.cli", "serve", "--run-dir", str(self.run_dir)]
        argv += ["--store-dir", str(self.store_dir), "--store-size", self._store_size, "--http", "off"]
        argv += ["--proxy", self._proxy]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=lambda: _die_with(parent)
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (self.run_dir / "admin.sock").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise UnavailableError("start", "the sidecar", f"it did not come up; its log ends:\n{tail}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            (self.run_dir / "admin.sock").unlink(missing_ok=True)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
