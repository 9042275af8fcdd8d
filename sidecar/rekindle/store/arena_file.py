"""An arena as a file: made, reserved, told apart from a damaged or foreign one, set aside, repaired.

Runs in the keeper while a store is opened, under the store directory's lock. ``rekindle.store.arena``
maps what this module hands it. A SIGKILL anywhere in here leaves either no arena (a leftover ``*.new``
that ``discard_unfinished`` removes) or one that opens.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rekindle_plugins.contract.errors import StoreError, StoreFullError

from rekindle.store.layout import (
    BLOCK_BYTES,
    IDENTITY_OFFSET,
    REPLICA_OFFSET,
    ArenaGeometry,
    Header,
    checksum,
)
from rekindle.store.report import OpenLog

Step = Callable[[str], None]
"""Called with a name between every two steps that change an arena; tests kill the process in it."""

UNFINISHED_SUFFIX = ".new"
RESIZING_SUFFIX = ".resizing"
_RESERVE_CHUNK_BYTES = 1 << 30
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SPACE_HINT = "lower store_size, or give the store's volume and the container's memory limit more room"


def no_step(_name: str) -> None:
    """The step hook outside tests."""


@dataclass(frozen=True)
class HeaderReading:
    """What the two header blocks of a file said. ``header`` is None when neither is good."""

    header: Header | None
    primary_good: bool
    replica_good: bool
    problem: str


def read_header(fd: int) -> HeaderReading:
    """Read both header blocks, preferring the first. Raises OSError when the file cannot be read."""
    good: list[Header | None] = []
    problem = ""
    for offset in (0, REPLICA_OFFSET):
        try:
            good.append(Header.unpack(os.pread(fd, BLOCK_BYTES, offset)))
        except StoreError as error:
            good.append(None)
            problem = problem or error.problem
    primary, replica = good
    same = replica is not None and (primary is None or replica == primary)
    return HeaderReading(primary or replica, primary is not None, same, problem)


def read_identity(fd: int, header: Header) -> str | None:
    """The identity JSON, or None where its area is damaged. Raises OSError."""
    data = os.pread(fd, header.identity_json_bytes, IDENTITY_OFFSET)
    if checksum(data) != header.identity_json_checksum:
        return None
    return data.decode(errors="replace")


def create_file(path: Path, geometry: ArenaGeometry, identity_digest: bytes, identity_json: str, step: Step) -> int:
    """Make, reserve and label a fresh arena; returns its descriptor. Blocks while memory is zeroed.

    The file appears under its name only when it is complete.

    Raises:
        StoreFullError: not enough room; nothing is left behind.
        StoreError: the file system refused, or the identity is malformed; nothing is left behind.
    """
    header = Header.of(geometry, identity_digest, identity_json)
    unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
    try:
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError("create", f"arena {path}", str(error)) from error
    try:
        step("create: file made")
        reserve(fd, 0, geometry.file_bytes, path)
        step("create: space reserved")
        os.pwrite(fd, identity_json.encode(), IDENTITY_OFFSET)
        os.pwrite(fd, header.pack(), REPLICA_OFFSET)
        step("create: replica written")
        os.pwrite(fd, header.pack(), 0)
        step("create: header written")
        os.rename(unfinished, path)
        step("create: renamed")
    except BaseException as error:
        os.close(fd)
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError("create", f"arena {path}", str(error)) from error
        raise
    return fd


def reserve(fd: int, begin: int, end: int, path: Path) -> None:
    """Back bytes ``begin`` to ``end`` with memory, growing the file, so that no later touch can fail.

    Raises:
        StoreFullError: not enough room; the file may have grown up to there.
        StoreError: the file system refused for another reason.
    """
    try:
        # In chunks: tmpfs gives up a whole call when a signal arrives, and undoes it.
        for start in range(begin, end, _RESERVE_CHUNK_BYTES):
            os.posix_fallocate(fd, start, min(_RESERVE_CHUNK_BYTES, end - start))
    except OSError as error:
        if error.errno in _NO_SPACE:
            problem = f"no room for {end - begin} bytes: {error.strerror}"
            raise StoreFullError("reserve", f"arena {path}", problem, _NO_SPACE_HINT) from error
        raise StoreError("reserve", f"arena {path}", str(error)) from error


def set_aside(path: Path, why: str, log: OpenLog) -> Path:
    """Rename a file that cannot be used to ``<name>.damaged-<n>``, saying why.

    Raises:
        StoreError: the file system refused.
    """
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        path.rename(target)
    except OSError as error:
        raise StoreError("set aside", f"arena {path}", str(error)) from error
    log.set_aside = target
    log.note(f"{path.name} was set aside as {target.name}: {why}")
    return target


def delete_set_aside(log: OpenLog) -> None:
    """Delete the file that this opening set aside, because a fresh arena needs its room."""
    if log.set_aside is not None:
        log.set_aside.unlink(missing_ok=True)
        log.note(f"{log.set_aside.name} was deleted: the fresh arena needs its room")
        log.set_aside = None


def repair_headers(fd: int, reading: HeaderReading, header: Header, identity_json: str, log: OpenLog) -> None:
    """Write the good header over a damaged one, and the identity JSON over a damaged area.

    Raises:
        OSError: the file system refused.
    """
    if read_identity(fd, header) is None:
        data = identity_json.encode()
        # The caller's JSON has the same digest, so it says the same; only its length is fixed by the header.
        if len(data) == header.identity_json_bytes and checksum(data) == header.identity_json_checksum:
            os.pwrite(fd, data, IDENTITY_OFFSET)
            log.note("the identity area was damaged; it was written anew")
        else:
            log.note("the identity area is damaged and could not be written anew")
    if not reading.primary_good:
        os.pwrite(fd, header.pack(), 0)
        log.note("the header was damaged; it was written anew from its replica")
    elif not reading.replica_good:
        os.pwrite(fd, header.pack(), REPLICA_OFFSET)
        log.note("the header's replica was damaged; it was written anew")


def restore_length(fd: int, geometry: ArenaGeometry, path: Path, log: OpenLog) -> int:
    """Give a file its full, reserved length again; returns how many of its bytes were there.

    Raises:
        StoreFullError: not enough room; the file is as short as it was.
        StoreError: the file system refused.
    """
    status = os.fstat(fd)
    present = min(status.st_size, geometry.file_bytes)
    is_reserved = status.st_blocks * 512 >= geometry.file_bytes
    if present == geometry.file_bytes and is_reserved:
        return present
    try:
        reserve(fd, 0, geometry.file_bytes, path)
    except StoreError:
        os.ftruncate(fd, status.st_size)
        raise
    if present < geometry.file_bytes:
        log.note(f"{path.name} had lost its tail: {present} of {geometry.file_bytes} bytes were there")
    return present


def discard_unfinished(directory: Path, log: OpenLog) -> None:
    """Remove what a killed ``create_file`` or ``rebuild`` left behind."""
    patterns = (f"*.arena{UNFINISHED_SUFFIX}", f"*.arena{RESIZING_SUFFIX}*")
    for leftover in [path for pattern in patterns for path in directory.glob(pattern)]:
        leftover.unlink(missing_ok=True)
        log.note(f"{leftover.name} was deleted: an arena that was never finished")
