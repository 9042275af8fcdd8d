"""Shared memory that cannot be taken away: memfds sealed against shrinking.

The keeper maps the journal and the fence of a process it does not trust. Were the owner to shrink such a file, the next
read would kill the keeper with SIGBUS; the seal makes that impossible, and the keeper refuses memory without it.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from rekindle_plugins.contract.errors import ProtocolError

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def create_sealed(name: str, size_bytes: int) -> int:
    """A memfd of exactly this size, for ever. The caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def require_sealed(fd: int, subject: str) -> int:
    """The size of sealed shared memory. Raises ProtocolError for anything else."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ProtocolError("attach", subject, f"it is no memfd: {error}") from error
    if not seals & fcntl.F_SEAL_SHRINK:
        raise ProtocolError("attach", subject, "it is not sealed against shrinking")
    return os.fstat(fd).st_size


def map_shared(fd: int, size_bytes: int, subject: str, prot: int = mmap.PROT_READ | mmap.PROT_WRITE) -> mmap.mmap:
    """Maps memory that another process sized. Raises ProtocolError where the kernel refuses such a mapping."""
    try:
        return mmap.mmap(fd, size_bytes, prot=prot)
    except (OSError, ValueError, OverflowError) as error:
        raise ProtocolError("attach", subject, f"{size_bytes} bytes of it cannot be mapped: {error}") from error
