"""`-o`: a file is replaced as a whole, and what is more than a file stays what it is."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from rekindle.cli.whole_file import write_whole


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_keeps_its_mode_and_a_new_one_has_what_umask_leaves(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("before")
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        write_whole(old, b"after")
        write_whole(new, b"after")
    finally:
        os.umask(before)
    assert (old.read_text(), mode(old), mode(new)) == ("after", 0o640, 0o640)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_symlink_stays_one_and_its_file_is_replaced(tmp_path: Path) -> None:
    real, link, dangling = tmp_path / "folder" / "real", tmp_path / "link", tmp_path / "dangling"
    real.parent.mkdir()
    real.write_text("before")
    link.symlink_to(real)
    dangling.symlink_to(real.with_name("made"))
    write_whole(link, b"after")
    write_whole(dangling, b"after")
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert (real.read_text(), real.with_name("made").read_text()) == ("after", "after")


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, b"content")
    reader.join(60)
    assert got == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_into() -> None:
    write_whole(Path(os.devnull), b"content")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_somebody_elses_temporary_file_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "out.tmp"
    mine.write_text("mine")
    write_whole(tmp_path / "out", b"content")
    assert mine.read_text() == "mine"


def test_what_cannot_be_put_in_place_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out"
    file.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert file.read_text() == "before"
