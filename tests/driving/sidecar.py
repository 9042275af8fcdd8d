"""A real sidecar process: `python -m rekindle.cli serve`."""

from __future__ import annotations

import os
import re
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from rekindle.admin.client import AdminClient
from rekindle.lifecycle.status import EngineStatus, KeeperStatus, RecoveryReport, StoreStatus

from driving.polling import until
from driving.process import Process, children, fd_count, proceed, rss_bytes, stop_and_wait

START_S = 20.0


class Sidecar:
    """Keeps its directories and settings over any number of starts. `settings`: names as in `rekindle.config`."""

    def __init__(self, directory: Path, store_dir: Path, **settings: str) -> None:
        self.run_dir = directory / "run"
        self.store_dir = store_dir
        self.settings = {"store_size": "16MiB", "http": "off"} | settings
        self.log = directory / "sidecar.log"
        self.process: Process | None = None
        self.sessions: list[Process] = []

    def start(self, wait: bool = True) -> None:
        flags = [part for name, value in self.settings.items() for part in (f"--{name.replace('_', '-')}", value)]
        argv = [sys.executable, "-m", "rekindle.cli", "serve", "--run-dir", str(self.run_dir)]
        argv += ["--store-dir", str(self.store_dir), *flags]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}
        self.process = Process(argv, environ, self.log)
        self.sessions.append(self.process)
        if wait:
            self.wait_until_serving()

    def wait_until_serving(self) -> None:
        process = self._process
        until("the sidecar to serve", lambda: "event=serving" in process.output() or not process.is_running, START_S)
        assert process.is_running, f"the sidecar ended with {process.exit_code}:\n{process.output()[-3000:]}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        return self._process.output()

    # -- signals -----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        self._process.signal(signal.SIGTERM)
        return self._process.wait()

    def freeze(self) -> None:
        stop_and_wait(self.pid)

    def thaw(self) -> None:
        proceed(self.pid)

    def copiers(self) -> list[int]:
        return children(self.pid)

    def ready_copiers(self, count: int = 1) -> list[int]:
        """The copiers, when there are so many, and they have mapped an engine's memory."""

        def find() -> list[int]:
            found = self.copiers()
            return found if len(found) == count and all(_has_mapped(pid) for pid in found) else []

        return until(f"{count} copiers at work", find)

    @property
    def http_url(self) -> str:
        """Where it serves health and metrics, for the setting `http=":0"`."""
        found = re.search(r"http listening.*port=(\d+)", self.output())
        assert found is not None, "it serves no HTTP"
        return f"http://127.0.0.1:{found[1]}"

    # -- what it says ------------------------------------------------------------------------------------------

    def status(self) -> KeeperStatus:
        with AdminClient(self.run_dir / "admin.sock") as client:
            return client.status()

    def http_port(self) -> int:
        """Of one that was started with `http=":0"`."""
        found = re.search(r'event="http listening".* port=(\d+)', self.output())
        assert found is not None, "it does not serve HTTP"
        return int(found[1])

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port()}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def engines(self, state: str | None = None) -> list[EngineStatus]:
        return [engine for engine in self.status().engines if state in (None, engine.state)]

    def engine(self, timeout_s: float = 15.0) -> EngineStatus:
        """The one engine, once it is attached."""
        states = ("attached", "restoring", "running")
        return until("one engine attached", lambda: [e for e in self.engines() if e.state in states], timeout_s)[0]

    def when(self, what: str, test: Callable[[KeeperStatus], object], timeout_s: float = 15.0) -> KeeperStatus:
        """The first status that passes `test`."""
        return until(what, lambda: (lambda status: status if test(status) else None)(self.status()), timeout_s)

    def store(self) -> StoreStatus:
        return max(self.status().stores, key=lambda store: store.pages)

    def recovery(self) -> RecoveryReport:
        report = self.status().last_recovery
        assert report is not None
        return report

    def when_released(self, timeout_s: float = 15.0) -> KeeperStatus:
        """The status once no engine, living or dying, is left."""
        return self.when("every engine to be released", lambda status: not status.engines, timeout_s)

    def when_idle(self, timeout_s: float = 15.0) -> KeeperStatus:
        """The status once everything committed has been copied."""
        return self.when(
            "everything to be copied", lambda s: s.engines and not any(e.pages.pending for e in s.engines), timeout_s
        )

    def fd_count(self) -> int:
        return fd_count(self.pid)

    def rss_bytes(self) -> int:
        return rss_bytes(self.pid)

    @property
    def _process(self) -> Process:
        assert self.process is not None, "the sidecar was not started"
        return self.process


def _has_mapped(pid: int) -> bool:
    try:
        return ".arena" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
