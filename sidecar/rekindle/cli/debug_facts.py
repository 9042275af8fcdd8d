"""Facts of a process and of its machine, read from /proc and /sys. What is not there is left out."""

from __future__ import annotations

import contextlib
import os
import platform
import socket as sockets
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rekindle.config import HttpAddress

_LARGEST_BYTES = 64 << 10
_MEMORY = ("MemTotal", "MemAvailable", "Shmem", "SwapTotal", "SwapFree", "HugePages_Total", "Hugepagesize")
_STATUS = ("State", "VmPeak", "VmRSS", "RssAnon", "RssShmem", "VmLck", "VmPin", "Threads", "Seccomp")
_CGROUP = (
    *("memory.max", "memory.high", "memory.current", "memory.peak", "memory.swap.max", "memory.events"),
    *("cpu.max", "cpu.stat", "pids.max", "pids.current", "cpuset.cpus.effective"),
    *("memory.limit_in_bytes", "memory.usage_in_bytes", "cpu.cfs_quota_us"),
)
_SHARED_OPTIONS = ("size=", "nr_blocks=", "huge=", "mode=")
"""Of a file system's own options: others may name servers, paths or users."""
_LISTEN = "0A"


def listener_pid(path: Path) -> int | None:
    """The process that listens at a Unix socket, as the kernel knows it; None where nobody does, or not in here."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            raw = connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    pid = int(struct.unpack("3i", raw)[0])
    return pid if pid > 0 else None


def listening(pid: int) -> list[HttpAddress]:
    """Where a process listens for TCP."""
    inodes = set()
    with contextlib.suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(fd))
    found = []
    for name, family in (("tcp", sockets.AF_INET), ("tcp6", sockets.AF_INET6)):
        for line in _read(f"/proc/{pid}/net/{name}").splitlines()[1:]:
            cells = line.split()
            if cells[3] == _LISTEN and f"socket:[{cells[9]}]" in inodes:
                host, port = cells[1].split(":")
                words = struct.pack(f"={len(host) // 8}I", *(int(host[i : i + 8], 16) for i in range(0, len(host), 8)))
                address = sockets.inet_ntop(family, words)
                found.append(HttpAddress({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address), int(port, 16)))
    return found


def arguments(pid: int) -> list[str]:
    return _read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")


def log_file(pid: int) -> Path | None:
    """Where the standard error of a process goes, if that is a file."""
    path = Path(f"/proc/{pid}/fd/2")
    return path if stat.S_ISREG(path.stat().st_mode) else None


def process(pid: int) -> dict[str, Any]:
    status = dict(_pairs(_read(f"/proc/{pid}/status")))
    limits = [line for line in _read(f"/proc/{pid}/limits").splitlines() if "open files" in line or "locked" in line]
    descriptors = 0
    with contextlib.suppress(OSError):
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return {
        "pid": pid,
        "uid": os.stat(f"/proc/{pid}").st_uid,
        "status": {name: status[name] for name in _STATUS if name in status},
        "limits": [" ".join(line.split()) for line in limits],
        "open_descriptors": descriptors,
        "copiers": sum(1 for _ in _children(pid)),
    }


def machine(pid: int, paths: Iterable[Path]) -> dict[str, Any]:
    """As a process sees it. Without the machine's name."""
    memory = dict(_pairs(_read("/proc/meminfo")))
    system = platform.uname()
    return {
        "system": f"{system.system} {system.release} {system.machine}",
        "kernel": system.version,
        "distribution": _distribution(),
        "cpus": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "memory": {name: memory[name] for name in _MEMORY if name in memory},
        "control_group": _control_group(pid),
        "mounts": [_mount(path) for path in paths],
        "gpu_driver": _gpu_driver(),
    }


def _children(pid: int) -> Iterator[int]:
    for task in _glob(f"/proc/{pid}/task", "*"):
        yield from map(int, _read(str(task / "children")).split())


def _distribution() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return ""


def _control_group(pid: int) -> dict[str, str]:
    """The limits and figures of the group, in either version's files."""
    found: dict[str, str] = {}
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        base = Path("/sys/fs/cgroup", controllers.partition(",")[0])
        # Within a container its own group is at the root, whatever its path is outside.
        for folder in (base / path.lstrip("/"), base):
            for name in _CGROUP:
                text = _read(str(folder / name)).strip()
                if text and name not in found:
                    found[name] = " ".join(text.split("\n"))
    return found


def _mount(path: Path) -> dict[str, Any]:
    """The file system that holds a path (or the nearest folder above it that exists)."""
    while not path.exists() and path != path.parent:
        path = path.parent
    best: list[str] = []
    for line in _read("/proc/self/mountinfo", _LARGEST_BYTES * 16).splitlines():
        cells = line.split()
        point = Path(cells[4])
        if (point == path or point in path.parents) and len(cells[4]) >= len(best[4] if best else ""):
            best = cells
    space = os.statvfs(path)
    found: dict[str, Any] = {
        "path": str(path),
        "size_bytes": space.f_frsize * space.f_blocks,
        "available_bytes": space.f_frsize * space.f_bavail,
    }
    if best:
        kind, _, own = best[best.index("-") + 1 : best.index("-") + 4]
        shown = [option for option in own.split(",") if option.startswith(_SHARED_OPTIONS)]
        found |= {"mounted_at": best[4], "type": kind, "options": ",".join([best[5], *shown])}
    return found


def _gpu_driver() -> dict[str, str]:
    found = {}
    for name in ("/proc/driver/nvidia/version", "/sys/module/nvidia/version", "/sys/module/amdgpu/version"):
        text = _read(name).strip()
        if text:
            found[name] = text
    for path in _glob("/proc/driver/nvidia/gpus", "*/information"):
        found[str(path)] = _read(str(path))
    return found


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name, value.strip()


def _glob(folder: str, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(Path(folder).glob(pattern))
    return []


def _read(path: str, most: int = _LARGEST_BYTES) -> str:
    """The beginning of a file; empty where it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(most).decode(errors="replace")
    return ""
