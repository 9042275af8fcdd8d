"""The store: one directory of arenas, one per identity, within a budget of bytes.

Runs in the keeper, which opens it at start. ``open`` runs in a worker thread, since it may take seconds; nothing else
here is called meanwhile (``keeper.stores.Stores`` has a lock for that), and all else runs on the event loop's thread.
At most one process has a store directory open: it holds an advisory lock on ``<directory>/lock``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from rekindle_plugins.contract.errors import InUseError, StoreError, StoreFullError

from rekindle.store.arena import Arena
from rekindle.store.arena_file import Step, discard_unfinished, no_step, read_header, read_identity
from rekindle.store.catalog import Catalog
from rekindle.store.layout import ArenaGeometry, Header, PageGeometry, arena_name
from rekindle.store.report import OpenLog, OpenReport

SLOT_COUNT_MIN = 4
_SET_ASIDE_PATTERN = "*.arena.damaged-*"


class OpenedArena(NamedTuple):
    """What ``Store.open`` gives."""

    arena: Arena
    catalog: Catalog
    report: OpenReport


@dataclass(frozen=True)
class StoredArena:
    """An arena file in the directory. ``header`` and ``identity_json`` are None where they are damaged."""

    path: Path
    header: Header | None
    identity_json: str | None
    file_bytes: int
    last_opened_unix_s: float
    is_active: bool


class Store:
    """One store directory. Use as a context manager, or ``close`` it."""

    def __init__(self, directory: Path, store_size_bytes: int, *, step: Step = no_step) -> None:
        """Take the directory, making it if need be, and its lock.

        Raises:
            InUseError: another process has it.
            StoreError: the file system refused.
        """
        self.directory = directory
        self.store_size_bytes = store_size_bytes
        self._step = step
        self._active: dict[Path, Arena] = {}
        self._start_log = OpenLog()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError("open", f"store {directory}", str(error)) from error
        self._lock()
        discard_unfinished(directory, self._start_log)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock_fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock_fd)
            problem = f"another process has it open (pid {holder}, as that process sees itself)"
            hint = "stop the other sidecar, or give this one its own store directory"
            raise InUseError("lock", f"store {self.directory}", problem, hint) from error
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, str(os.getpid()).encode(), 0)

    @property
    def lock_fd(self) -> int:
        """The lock's descriptor. A copier inherits it, so that the lock outlives us until it is gone too."""
        return self._lock_fd

    def arenas(self) -> list[StoredArena]:
        """All arenas in the directory, the least recently opened first, those open here included."""
        found = []
        for path in self.directory.glob("*.arena"):
            with contextlib.suppress(FileNotFoundError):  # somebody has removed it
                found.append(self._describe(path))
        return sorted(found, key=lambda arena: (arena.last_opened_unix_s, arena.path))

    def others(self, identity_digest: bytes) -> list[StoredArena]:
        """The arenas of other identities, so that their mismatching fields can be named."""
        own = self.directory / arena_name(identity_digest)
        return [arena for arena in self.arenas() if arena.path != own]

    def open(self, identity_digest: bytes, identity_json: str, page: PageGeometry) -> OpenedArena:
        """Open the arena of an identity, or make one with as many slots as fit. May block for long.

        An arena that is there keeps its slot count, unless it is larger than the budget: then it is deleted
        and made anew. Arenas of other identities that are not open here are deleted, the least recently
        opened first, when a new one would else get less than half of the budget.

        Raises:
            StoreFullError: fewer than 4 slots fit, or the file system has less room than the budget says.
            StoreError: the arena is open already, or the file system refused.
        """
        path = self.directory / arena_name(identity_digest)
        if path in self._active:
            raise StoreError("open", f"arena {path}", "it is open already", "close it first")
        log, self._start_log = self._start_log, OpenLog()
        log.begin()
        geometry, room_bytes = self._plan(path, identity_digest, identity_json, page, log)
        arena = Arena.open(path, identity_digest, identity_json, geometry, log, room_bytes=room_bytes, step=self._step)
        catalog = Catalog(arena, log, step=self._step)
        self._active[path] = arena
        return OpenedArena(arena, catalog, log.finish(catalog.counters().stored))

    def close_arena(self, arena: Arena) -> None:
        """Let go of an arena; its file stays, and may be deleted when its room is needed."""
        self._active.pop(arena.path, None)
        arena.close()

    def close(self) -> None:
        """Let go of all arenas and of the lock."""
        for arena in list(self._active.values()):
            self.close_arena(arena)
        os.close(self._lock_fd)

    def _plan(
        self, path: Path, identity_digest: bytes, identity_json: str, page: PageGeometry, log: OpenLog
    ) -> tuple[ArenaGeometry, int]:
        """The geometry the arena at ``path`` has or is to get, and the bytes it may take."""
        active_bytes = sum(arena.geometry.file_bytes for arena in self._active.values())
        budget_bytes = self.store_size_bytes - active_bytes
        header = self._describe(path).header if path.exists() else None
        if header and header.identity_digest == identity_digest and header.geometry.page == page:
            own_bytes = header.geometry.file_bytes
            if own_bytes <= budget_bytes:
                return header.geometry, self._make_room(path, own_bytes, budget_bytes, log)
            path.unlink()
            log.note(f"{path.name} was deleted: its {own_bytes} bytes exceed the budget of {budget_bytes}")
        room_bytes = self._make_room(path, budget_bytes // 2, budget_bytes, log)
        aside_bytes = path.stat().st_size if path.exists() else 0
        # A file that will be set aside stays where that leaves the fresh arena its half of the budget.
        is_aside_kept = room_bytes - aside_bytes >= budget_bytes // 2
        fresh_bytes = room_bytes - aside_bytes if is_aside_kept else room_bytes
        geometry = ArenaGeometry.fitting(page, identity_json, fresh_bytes)
        if geometry is None or geometry.slot_count < SLOT_COUNT_MIN:
            slot_bytes = page.slot_bytes + page.record_bytes
            problem = f"{max(room_bytes, 0)} bytes hold fewer than {SLOT_COUNT_MIN} pages of {slot_bytes} bytes"
            hint = f"raise store_size (now {self.store_size_bytes} bytes), or close another engine's arena"
            raise StoreFullError("open", f"store {self.directory}", problem, hint)
        return geometry, room_bytes

    def _make_room(self, path: Path, wanted_bytes: int, budget_bytes: int, log: OpenLog) -> int:
        """Delete other files until ``wanted_bytes`` of the budget are free of them; returns what is free.

        ``path`` itself does not count. What was set aside goes first, then inactive arenas, the least
        recently opened first.
        """
        aside = sorted(self.directory.glob(_SET_ASIDE_PATTERN), key=lambda file: file.stat().st_mtime)
        inactive = [arena.path for arena in self.arenas() if not arena.is_active and arena.path != path]
        files = [*aside, *inactive]
        free_bytes = budget_bytes - sum(file.stat().st_size for file in files)
        for file in files:
            if free_bytes >= wanted_bytes:
                break
            free_bytes += file.stat().st_size
            file.unlink()
            log.note(f"{file.name} was deleted: its room is needed for {path.name}")
            self._step("make room: file deleted")
        return free_bytes

    def _describe(self, path: Path) -> StoredArena:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = read_header(fd).header
            identity_json = read_identity(fd, header) if header else None
            status = os.fstat(fd)
        finally:
            os.close(fd)
        is_active = path in self._active
        return StoredArena(path, header, identity_json, status.st_size, status.st_mtime, is_active)
