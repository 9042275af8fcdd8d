"""The status table's text, in a pipe and on a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rekindle.cli.status_table import duration, reasons, show, size
from rekindle.lifecycle.status import KeeperStatus
from status_samples import EMPTY, RECOVERY, STATUS


def shown(status: KeeperStatus) -> str:
    out = io.StringIO()
    show(status, out)
    return out.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_plain_table_has_every_number_people_ask_for() -> None:
    lines = [" ".join(line.split()) for line in shown(STATUS).splitlines()]
    assert lines[0] == "rekindle 0.1.0 paused up 2 h 1 min"
    assert lines[1] == "checkpointed 5.0 GiB, restored 3.0 MiB; copier crashes 1; refused peer_refused 2"
    assert "engine instance state ranks live checkpointed pending lost to overwrite restored rejected requests" in lines
    assert "vllm 0.32.0 8f14e45fceea running 2/2 1,200 1,150 4 3 900 8 5" in lines
    assert "/dev/shm/rekindle c4ca4238a0b9 512.0 MiB 2.0 GiB 25% 512 2,048 17" in lines
    assert "vllm 8f14e45fceea: journal overflowed once" in lines
    assert "/dev/shm/rekindle: 2 page(s) dropped: its parent is missing" in lines
    assert "#3: d3d9446802a4 died (connection closed); next engine: 8f14e45fceea" in lines
    assert "pages: 1,000 committed, 12 salvaged after the death, 1 unsaved, 990 restored (15,840 tokens)" in lines
    assert "2 in a row died right after a restore" in lines
    assert "stored pages do not fit the engine: dtype, block_size differ" in lines
    assert "times: salvage 20 ms, memory let go after 40 ms, down 2.5 s, restore 500 ms" in lines


def test_a_pipe_gets_neither_colour_nor_boxes_nor_cut_lines() -> None:
    text = shown(STATUS)
    assert "\x1b" not in text
    assert not set("│╭─┃…") & set(text)


def test_a_terminal_gets_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    show(STATUS, out)
    assert "╭" in out.getvalue()


def test_an_empty_sidecar_says_so_in_words() -> None:
    text = shown(EMPTY)
    for words in ("not ready", "no engine is attached", "no store is open yet", "no engine has died"):
        assert words in text


def test_a_recovery_that_is_under_way_shows_what_is_known() -> None:
    under_way = replace(RECOVERY, started_instance=None, down_s=None, restore_s=None, mismatches=(), pages_rejected={})
    text = shown(replace(STATUS, last_recovery=under_way))
    assert "next engine: none yet" in text
    assert "down" not in text
    assert "rejected:" not in text


def test_amounts_read_well() -> None:
    assert [size(count) for count in (0, 1023, 1536, 5 << 30, 3 << 50)] == [
        *("0 B", "1023 B", "1.5 KiB", "5.0 GiB", "3,072.0 TiB")
    ]
    assert [duration(seconds) for seconds in (0.25, 12.5, 200, 18120, 273600)] == [
        *("250 ms", "12.5 s", "3 min 20 s", "5 h 2 min", "3 d 4 h")
    ]
    assert reasons({"b": 1, "a": 1, "c": 9}) == "c 9, a 1, b 1"
