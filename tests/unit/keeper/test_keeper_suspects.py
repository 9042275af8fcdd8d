"""The file of suspicious deaths: it outlives the sidecar, and nothing in it can harm one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rekindle.keeper.suspects import FILE_NAME, MAX_RECORDS, Suspects
from rekindle.lifecycle.suspicion import Record

DIGEST = bytes(range(32))
ROW = {"deaths": 2, "since_tick": 77}


def test_a_record_is_there_after_a_restart_of_the_sidecar_and_gone_when_it_is_over(tmp_path: Path) -> None:
    suspects = Suspects(tmp_path)
    assert suspects.record(DIGEST) == Record()
    suspects.put(DIGEST, Record(2, 77))
    assert Suspects(tmp_path).record(DIGEST) == Record(2, 77)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    suspects.put(DIGEST, Record())
    assert Suspects(tmp_path).record(DIGEST) == Record()


def test_only_so_many_identities_are_remembered_and_the_oldest_go_first(tmp_path: Path) -> None:
    suspects = Suspects(tmp_path)
    for number in range(MAX_RECORDS + 3):
        suspects.put(bytes([number]) * 32, Record(1, number))
    again = Suspects(tmp_path)
    assert again.record(bytes([2]) * 32) == Record()
    assert again.record(bytes([3]) * 32) == Record(1, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{" * 100_000,
        b'{"a": ' * 5_000,
        json.dumps({"short": ROW}).encode(),
        json.dumps({"g" * 64: ROW}).encode(),
        json.dumps({DIGEST.hex(): 3}).encode(),
        json.dumps({DIGEST.hex(): {"deaths": 2}}).encode(),
        json.dumps({DIGEST.hex(): ROW | {"deaths": -1}}).encode(),
        json.dumps({DIGEST.hex(): ROW | {"deaths": True}}).encode(),
        json.dumps({DIGEST.hex(): ROW | {"since_tick": 1.5}}).encode(),
        json.dumps({DIGEST.hex(): ROW | {"since_tick": 1 << 70}}).encode(),
        json.dumps({f"{number:064x}": ROW for number in range(MAX_RECORDS + 1)}).encode(),
    ],
)
def test_a_file_that_says_what_cannot_be_counts_for_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    suspects = Suspects(tmp_path)
    assert suspects.record(DIGEST) == Record()
    suspects.put(DIGEST, Record(1, 5))
    assert Suspects(tmp_path).record(DIGEST) == Record(1, 5)


def test_a_directory_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    suspects = Suspects(tmp_path / "gone")
    suspects.put(DIGEST, Record(1, 5))
    assert suspects.record(DIGEST) == Record(1, 5)
