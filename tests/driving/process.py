"""One child process in a session of its own, which cannot outlive us.

The child is started through a few lines of Python that ask the kernel for a SIGKILL when the thread that started it
ends (PR_SET_PDEATHSIG) and then become the program. So start children from a thread that lives as long as they may.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from driving.polling import until

_BECOME = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.getppid() == int(sys.argv[1]) or os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
_alive: set[Process] = set()


class Process:
    """Started by the constructor. Its output, both streams, goes to the end of `log`."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environ),
                start_new_session=True,
            )
        self.pid = self._popen.pid
        _alive.add(self)

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    def output(self) -> str:
        """What this process (not an earlier one with the same log) has written so far."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="replace")

    def wait_for_line(self, start: str, timeout_s: float) -> str:
        """The first line of its output that begins so. AssertionError when it ends, or does not say it in time."""

        def find() -> str | None:
            text = self.output()
            for line in text.splitlines(keepends=True):
                if line.startswith(start) and line.endswith("\n"):
                    return line.rstrip()
            assert self.is_running, f"the process ended with {self.exit_code}:\n{text[-3000:]}"
            return None

        return until(f"{start!r} in {self.log}", find, timeout_s) or ""

    def signal(self, number: int) -> None:
        """To the process alone. One that has ended is left alone: its id may be another's by now."""
        if self.is_running:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float = 15.0) -> int:
        return self._popen.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()
        _alive.discard(self)

    def kill_session(self) -> None:
        """SIGKILL to everything in its session that is left, and wait until all of it is gone."""
        if self.is_running:
            self.signal(signal.SIGKILL)
            self.wait()
        for pid in session_members(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(f"the end of session {self.pid}", lambda: not session_members(self.pid), 10.0)
        _alive.discard(self)


def session_members(session: int) -> list[int]:
    """Processes of a session that one of ours leads.

    Zombies are none, but for those of whose threads some are still being ended: they have their sockets yet.
    """
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        is_over = fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)
        if int(fields[3]) == session and not is_over:
            found.append(int(entry))
    return found


def children(pid: int) -> list[int]:
    """The child processes of a process, zombies included. Empty when it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path("/proc", str(pid), "task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def state(pid: int) -> str:
    """The kernel's letter for a process (R, S, T, Z, …); "" when there is none."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def stop_and_wait(pid: int) -> None:
    """SIGSTOP, and return when the process has stopped."""
    os.kill(pid, signal.SIGSTOP)
    until(f"process {pid} to stop", lambda: state(pid) in ("T", "Z", ""), 5.0)


def proceed(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def fd_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def shared_memory(pid: int, name: str) -> str:
    """The device and inode of a memfd of that name which a process has mapped, as /proc/…/maps writes them."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if f"/memfd:{name}" in line:
            return " ".join(line.split()[3:5])
    raise AssertionError(f"process {pid} has no memfd {name} mapped")


def mappers(memory: str) -> list[int]:
    """Processes that have this memory (see `shared_memory`) mapped."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and f" {memory} " in Path("/proc", entry, "maps").read_text():
                found.append(int(entry))
    return found


@atexit.register
def _kill_all() -> None:
    for process in list(_alive):
        with contextlib.suppress(Exception):
            process.kill_session()
