"""A recovery as a page, a table and JSON: what it shows, and what it lets nobody do."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rekindle.cli.report import find_report
from rekindle.cli.report_page import page
from rekindle.cli.report_phases import phases, took
from rekindle.cli.report_table import show, table_text
from rekindle.cli.report_timeline import axis_text, ticks
from rekindle.keeper.refusals import NotFoundError
from rekindle.lifecycle.status import RecoveryReport
from rekindle.recovery_files import write_report
from status_samples import RECOVERY

VOID = {"meta", "line", "rect"}
UNDER_WAY = RecoveryReport(2, "identity", died_instance="old", reason="it hung up", began_unix=1.0, salvage_s=0.1)
WITHOUT_DEATH = RecoveryReport(
    3, "identity", started_instance="new", pages_restored=5, began_unix=1.0, asked_s=0.1, warm_s=0.4, finished_unix=2.0
)


class Page(HTMLParser):
    """Checks that tags are balanced, and collects what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def bars(self) -> list[tuple[str, float, float]]:
        """(class, left, right) of the first picture's bars."""
        found = []
        for tag, attrs in self.tags:
            if tag == "rect":
                left = float(attrs["x"])
                found.append((attrs["class"].removeprefix("bar "), left, left + float(attrs["width"])))
        return found


@pytest.mark.parametrize("report", [RECOVERY, UNDER_WAY, WITHOUT_DEATH, RecoveryReport(1, "i")])
def test_the_page_is_whole_and_loads_nothing_from_anywhere(report: RecoveryReport) -> None:
    text = page(report)
    found = Page(text)
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "base", "form", "a"}
    attributes = {name for _, attrs in found.tags for name in attrs}
    assert not {name for name in attributes if name.startswith("on")} | attributes & {"src", "href", "xlink:href"}
    assert not re.search(r"url\(|@import|https?:", text)
    (policy,) = (attrs["content"] for tag, attrs in found.tags if "http-equiv" in attrs)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "prefers-color-scheme: dark" in text


def test_the_page_shows_every_figure_of_the_report() -> None:
    text = Page(page(RECOVERY)).text
    for words in (
        *("Recovery #3 finished", "d3d9446802a44259 (connection closed)", "8f14e45fceea167a"),
        "2025-10-09 08:53:17 UTC",
        *("990 pages put back", "15,840 tokens saved", "3.2 s until warm", "40 ms memory held", "1 pages lost"),
        *("committed by the engine that died 1,000", "salvaged read out of its memory after its death 12"),
        *("unsaved committed, and lost 1", "restored put back 990", "rejected checksum 1"),
        *("What does not fit", "dtype", "block_size"),
    ):
        assert words in text, words


def test_the_bars_lie_one_after_the_other_on_one_axis() -> None:
    drawn = page(RECOVERY)
    whole, _, close = drawn.partition("<h3>")
    bars = {kind: (left, right) for kind, left, right in Page(whole + "</section></main></body></html>").bars}
    assert list(bars) == ["detect", "salvage", "release", "down", "attach", "restore"]
    zero = bars["salvage"][0]
    assert bars["detect"][1] == pytest.approx(zero, abs=2)
    assert bars["down"][0] == zero
    assert bars["down"][1] == bars["attach"][0]
    assert bars["attach"][1] == bars["restore"][0]
    per_s = (bars["down"][1] - zero) / 2.5
    assert bars["restore"][1] - zero == pytest.approx(3.25 * per_s, abs=0.2)
    assert "The first 40 ms" in close, "what is too short to be seen gets a picture of its own"


def test_a_recovery_under_way_says_what_is_not_over() -> None:
    found = Page(page(UNDER_WAY))
    assert "Recovery #2 under way" in found.text
    assert "– pages put back" in found.text
    assert found.text.count("not over yet") >= 2
    assert {kind for kind, _, _ in found.bars} == {"salvage", "release open", "down open"}


def test_a_recovery_without_a_death_begins_with_the_engine() -> None:
    text = Page(page(WITHOUT_DEATH)).text
    assert "engine attached" in text
    assert "death noticed" not in text
    assert "memory held" not in text


@pytest.mark.parametrize("field", ["identity", "died_instance", "started_instance", "reason"])
def test_texts_of_peers_are_shown_and_never_obeyed(field: str) -> None:
    evil = '</title><script>alert(1)</script>"&\x1b[31m'
    report = replace(RECOVERY, **{field: evil}, mismatches=(evil,), pages_rejected={evil: 1})
    found = Page(page(report))
    assert "script" not in {tag for tag, _ in found.tags}
    assert found.text.count("<script>alert(1)</script>") >= 3
    assert "\x1b" not in table_text(report)


def test_the_table_has_the_phases_and_the_counts() -> None:
    lines = [" ".join(line.split()) for line in table_text(RECOVERY).splitlines()]
    for line in (
        *("Recovery #3", "died d3d9446802a44259: connection closed", "pages restored 990", "tokens saved 15,840"),
        *("pages rejected checksum 1", "does not fit dtype", "unnoticed 4.0 ms", "salvage 20 ms", "release 20 ms"),
        *("no engine 2.5 s", "attached 250 ms", "restore 500 ms", "warm after 3.2 s"),
    ):
        assert line in lines, line
    under_way = table_text(UNDER_WAY)
    assert "none yet" in under_way
    assert "not over yet" in under_way


def test_a_terminal_gets_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    show(RECOVERY, out)
    assert "╭" in out.getvalue()


def test_phases_that_contradict_each_other_have_no_negative_length() -> None:
    strange = replace(RECOVERY, salvage_s=2.0, release_s=1.0, asked_s=1.0)
    assert all(phase.took_s is None or phase.took_s >= 0 for phase in phases(strange))
    Page(page(strange))


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 0.003), (-0.02, 0.12), (0, 0.7), (-1.4, 45), (0, 400), (0, 1e6)])
def test_an_axis_has_a_few_round_ticks_and_zero_among_them(start_s: float, end_s: float) -> None:
    found = ticks(start_s, end_s)
    assert 3 <= len(found) <= 9
    assert 0 in found
    assert all(start_s - 1e-6 <= tick <= end_s + 1e-6 for tick in found)
    texts = [axis_text(tick) for tick in found]
    assert len(set(texts)) == len(texts)
    assert all(len(text) <= 10 for text in texts)


def test_short_times_keep_their_digits() -> None:
    assert [took(seconds, "–") for seconds in (None, 0.0008, 0.0028, 0.0312, 3.6)] == [
        *("–", "0.8 ms", "2.8 ms", "31 ms", "3.6 s")
    ]


def test_without_a_sidecar_the_files_beside_its_socket_are_read(tmp_path: Path) -> None:
    for number in (7, 8, 9):
        write_report(tmp_path, replace(RECOVERY, number=number))
    socket = tmp_path / "admin.sock"
    assert find_report(None, socket, 1.0).number == 9
    assert find_report(7, socket, 1.0).number == 7
    with pytest.raises(NotFoundError, match="recovery report 3") as caught:
        find_report(3, socket, 1.0)
    assert caught.value.hint == "there are: 7, 8, 9"
    with pytest.raises(NotFoundError, match="there is none in"):
        find_report(None, tmp_path / "elsewhere" / "admin.sock", 1.0)


def test_json_is_the_report_as_the_keeper_wrote_it(tmp_path: Path) -> None:
    write_report(tmp_path, RECOVERY)
    found = find_report(3, tmp_path / "admin.sock", 1.0)
    assert json.loads(json.dumps(found.to_json())) == json.loads((tmp_path / "recovery-3.json").read_text())
