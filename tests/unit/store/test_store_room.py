from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rekindle.store.room import check_room
from rekindle_plugins.contract.errors import StoreFullError


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory, as a store's should be."""
    made = Path(tempfile.mkdtemp(prefix="rk-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


def total_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


def test_a_store_that_fits_into_memory_is_nothing_to_warn_of(directory: Path) -> None:
    assert list(check_room(directory, 1 << 20)) == []


def test_a_store_that_can_never_fit_is_refused_with_both_sizes(directory: Path) -> None:
    size_bytes = total_bytes(directory)
    with pytest.raises(StoreFullError, match=f"has {size_bytes >> 20} MiB in all.*lower --store-size"):
        list(check_room(directory, size_bytes + (1 << 20)))


def test_room_that_others_have_taken_is_a_warning_and_what_our_arenas_have_is_room(directory: Path) -> None:
    taken = bytes(16 << 20)
    with tempfile.TemporaryDirectory(prefix="rk-", dir="/dev/shm") as other:
        (Path(other) / "file").write_bytes(taken)
        (warning,) = check_room(directory, total_bytes(directory) - (8 << 20))
    assert "not protected before there is room" in warning
    (directory / "x.arena").write_bytes(taken)
    free_bytes = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
    assert list(check_room(directory, free_bytes + (4 << 20))) == []


def test_a_file_system_that_is_no_memory_is_named() -> None:
    (warning,) = check_room(Path("/proc"), 1 << 20)
    assert "is on proc, no memory" in warning
