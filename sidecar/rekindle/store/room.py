"""Whether a store directory can hold what it is told to, looked at before any engine comes.

An arena is made when the first engine attaches, since its layout is the engine's. What its file system can never hold
is known before: better a sidecar that does not start than an engine that nobody protects in production.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rekindle_plugins.contract.errors import StoreFullError

IN_MEMORY = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
_MOUNTS = Path("/proc/self/mountinfo")


def check_room(directory: Path, store_size_bytes: int) -> Iterator[str]:
    """Yields what is worth a warning: no room now, a file system that is no memory.

    Raises:
        StoreFullError: the file system is smaller than the store, whatever else is in it.
    """
    found = os.statvfs(directory)
    size_bytes, free_bytes = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    subject = f"store {directory}"
    if size_bytes and size_bytes < store_size_bytes:  # some file systems do not say how large they are
        problem = f"its file system has {_mib(size_bytes)} in all, and the store is to have {_mib(store_size_bytes)}"
        raise StoreFullError("use", subject, problem, "lower --store-size, or mount a larger tmpfs there")
    ours_bytes = sum(path.stat().st_blocks * 512 for path in directory.iterdir() if path.is_file())
    if size_bytes and free_bytes + ours_bytes < store_size_bytes:
        yield (
            f"{subject} has room for {_mib(free_bytes + ours_bytes)} now, and is to have {_mib(store_size_bytes)}: "
            "an engine that attaches is not protected before there is room (lower --store-size, or make some)"
        )
    kind = _file_system(os.stat(directory).st_dev)
    if kind and kind not in IN_MEMORY:
        yield f"{subject} is on {kind}, no memory: page by page, checkpoints go to a disk (mount a tmpfs there)"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB"


def _file_system(device: int) -> str:
    """The type of a mounted file system; empty where that cannot be told."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        for line in _MOUNTS.read_text(errors="replace").splitlines():
            fields, _, source = line.partition(" - ")
            if fields.split()[2] == number:
                return source.split()[0]
    except (OSError, IndexError):
        pass
    return ""
