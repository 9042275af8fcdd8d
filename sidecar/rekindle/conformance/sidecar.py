"""The real sidecar of a check: a `rekindle serve` process, which can be killed, stopped, and asked what it has."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from rekindle_plugins.contract.errors import UnavailableError

from rekindle.admin.client import AdminClient
from rekindle.conformance.outcome import Limits, wait_for
from rekindle.demo.sidecar import SidecarProcess
from rekindle.lifecycle.status import KeeperStatus

STORE_SIZE = "64MiB"
PATIENT = ("--salvage-budget", "20s", "--restore-budget", "30s", "--fill-timeout", "30s", "--copier-timeout", "30s")
"""A machine that is busy with other things must not make a plugin look bad: nothing is given up early."""


class Sidecar(SidecarProcess):
    """Started by `start`; ended, stopped or not, by `end`."""

    def __init__(self, home: Path, store_dir: Path, limits: Limits, flags: Sequence[str] = PATIENT) -> None:
        super().__init__(home, STORE_SIZE, store_dir, flags)
        self._limits = limits
        self._is_frozen = False

    def status(self) -> KeeperStatus:
        with AdminClient(self.run_dir / "admin.sock", deadline_s=20.0) as client:
            return client.status()

    def when(
        self, what: str, test: Callable[[KeeperStatus], object], between: Callable[[], object] = lambda: None
    ) -> KeeperStatus:
        """The first status that passes `test`."""
        passed: list[KeeperStatus] = []

        def probe() -> bool:
            try:
                status = self.status()
            except UnavailableError:
                return False
            if test(status):
                passed.append(status)
            return bool(passed)

        wait_for(what, probe, self._limits.event_s, between)
        return passed[0]

    def when_attached(self, between: Callable[[], object] = lambda: None) -> KeeperStatus:
        """Once an engine is attached and its copiers have mapped its memory."""
        status = self.when("the engine attaches to the sidecar", lambda s: _has_engine(s), between)
        wait_for("copiers for the engine", self._copiers_are_ready, self._limits.event_s, between)
        return status

    def when_stored(self, pages: int, between: Callable[[], object] = lambda: None) -> KeeperStatus:
        """Once the store has so many pages."""
        return self.when(f"{pages} pages in the store", lambda s: stored_pages(s) >= pages, between)

    def when_released(self) -> KeeperStatus:
        """Once nothing of a dead engine is held any more."""
        return self.when("the dead engine's release", lambda status: not status.engines)

    def freeze(self) -> None:
        """SIGSTOP: it is there, and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        self._is_frozen = True
        wait_for("the sidecar to be stopped", lambda: _state(self.pid) == "T", self._limits.event_s)

    def thaw(self) -> None:
        if self._is_frozen:
            os.kill(self.pid, signal.SIGCONT)
            self._is_frozen = False

    def forget_everything(self) -> None:
        """Deletes the store of a sidecar that is not running."""
        shutil.rmtree(self.store_dir, ignore_errors=True)

    def end(self) -> None:
        """Kills it; its copiers end with it."""
        if self._process is not None:
            self.thaw()
            self.kill()
            self._process = None

    def _copiers_are_ready(self) -> bool:
        copiers = _children(self.pid)
        return bool(copiers) and all(_has_mapped_arena(pid) for pid in copiers)


def stored_pages(status: KeeperStatus) -> int:
    return max((store.pages for store in status.stores), default=0)


def _has_engine(status: KeeperStatus) -> bool:
    return any(engine.state in ("attached", "restoring", "running") for engine in status.engines)


def _state(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child)
            for task in Path("/proc", str(pid), "task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def _has_mapped_arena(pid: int) -> bool:
    try:
        return ".arena" in Path("/proc", str(pid), "maps").read_text()
    except OSError:
        return False
