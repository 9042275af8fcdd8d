"""The live view's rates and frames, without a terminal: what they say, and that they fit."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rekindle.cli.top_rates import KEPT, EngineRates, History, Rates
from rekindle.cli.top_view import View, chart, frame
from rekindle.lifecycle.inventory import Session
from rekindle.lifecycle.status import KeeperStatus
from rich.console import Console
from status_samples import EMPTY, ENGINE, PAGES, RECOVERY, STATUS

SOCKET = "/run/rekindle/admin.sock"


def later(seconds: float, checkpointed: int = 0, steps: int = 0, copied: int = 0, filled: int = 0) -> KeeperStatus:
    pages = replace(PAGES, checkpointed=PAGES.checkpointed + checkpointed, restored=PAGES.restored + filled)
    return replace(
        STATUS,
        uptime_s=STATUS.uptime_s + seconds,
        engines=(replace(ENGINE, pages=pages, steps=ENGINE.steps + steps),),
        bytes_checkpointed=STATUS.bytes_checkpointed + copied,
    )


def history(*statuses: KeeperStatus) -> History:
    made = History()
    for status in statuses:
        made.add(status)
    return made


def lines(view: View, width: int, height: int | None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height or 1000, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(frame(view, width, height))
    return captured.get().splitlines()


def test_rates_are_what_grew_by_the_sidecars_own_clock() -> None:
    found = history(STATUS, later(2.0, checkpointed=100, steps=50, copied=1 << 20, filled=10))
    assert found.rates == Rates(50.0, float(1 << 19), 5.0, 0.0)
    assert found.engines == {ENGINE.instance: EngineRates(50.0, 25.0)}


def test_there_are_no_rates_before_the_second_status() -> None:
    assert history(STATUS).rates is None
    assert "– pages/s" in "\n".join(lines(View(STATUS, history(STATUS), SOCKET), 80, 24))


def test_a_sidecar_that_was_started_anew_begins_a_new_history() -> None:
    found = history(STATUS, later(1.0, checkpointed=9))
    found.add(replace(STATUS, uptime_s=1.0, bytes_checkpointed=0))
    assert found.rates is None
    assert len(found.pending) == 1
    found.add(replace(STATUS, uptime_s=2.0, bytes_checkpointed=64))
    assert found.rates is not None
    assert found.rates.bytes_checkpointed == 64


def test_an_engine_that_comes_or_goes_makes_no_wild_rate() -> None:
    fresh = replace(ENGINE, instance="fresh", steps=10_000, pages=replace(PAGES, checkpointed=10**6, restored=30))
    found = history(STATUS, replace(later(1.0), engines=(fresh,)))
    assert found.rates is not None
    assert found.rates.pages_checkpointed == 0
    assert found.rates.pages_restored == 30, "it has restored them since it came"
    assert found.engines == {}


def test_history_is_bounded() -> None:
    found = history(*(later(float(second)) for second in range(1, 2 * KEPT)))
    assert len(found.checkpointed) == len(found.pending) == KEPT


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40), (100, 30), (80, 20), (200, 60)])
@pytest.mark.parametrize("engines", [0, 1, 2, 5, 40])
def test_a_frame_fits_its_terminal(width: int, height: int, engines: int) -> None:
    many = tuple(replace(ENGINE, instance=f"engine-{number}-with-a-long-name") for number in range(engines))
    statuses = [replace(later(float(second)), engines=many) for second in range(1, 100)]
    for problem in ("", "sidecar unreachable, retrying: nobody answers there"):
        drawn = lines(View(statuses[-1], history(*statuses), SOCKET, problem, "q quit"), width, height)
        assert len(drawn) <= height
        assert max(map(len, drawn)) <= width
        assert "q quit" in drawn[-1]
        if engines == 40 and height < 55:
            assert any("more" in line for line in drawn)


def test_a_frame_has_what_people_look_for() -> None:
    found = history(STATUS, later(1.0, checkpointed=100, steps=20, copied=64 << 20))
    text = "\n".join(lines(View(later(1.0), found, SOCKET, footer="q quit"), 140, 40))
    for words in (
        *("rekindle 0.1.0", "● ready", SOCKET, "100 pages/s", "64.0 MiB/s", "4 pages", "12 ms"),
        *("512.0 MiB of 2.0 GiB", "25%", "512 of 2,048 pages", "8 pinned, 17 evicted"),
        *("vllm 0.32.0", "running", "750 ms", "restarts 3", "copier crashes 1", "refused 2"),
        *("#3 finished", "salvage 20 ms", "warm 3.2 s", "990 pages put back", "1 lost", "rejected checksum 1"),
    ):
        assert words in text, words


def some_sessions(count: int, request_id: str = "chatcmpl-93bd0ffe1f204f6fa2b2b3ce1d5e8f0a-9d0e7b55") -> list[Session]:
    return [
        Session(f"{n:012x}", f"{n:064x}", "ef", 12_345, 772, 99 << 20, 0.0, n == 0, 7 * (n == 1), (), request_id)
        for n in range(count)
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40), (100, 30), (80, 20), (200, 60)])
@pytest.mark.parametrize("engines", [1, 5, 40])
@pytest.mark.parametrize("count", [1, 5])
def test_a_frame_with_sessions_fits_its_terminal(width: int, height: int, engines: int, count: int) -> None:
    many = tuple(replace(ENGINE, instance=f"engine-{number}") for number in range(engines))
    status = replace(STATUS, engines=many)
    drawn = lines(View(status, history(status), SOCKET, sessions=some_sessions(count)), width, height)
    assert len(drawn) <= height
    assert max(map(len, drawn)) <= width
    assert any("last recovery" in line for line in drawn)


def test_the_sessions_used_last_are_shown_with_their_requests() -> None:
    text = "\n".join(lines(View(STATUS, history(STATUS), SOCKET, sessions=some_sessions(5)), 140, 40))
    request_id = some_sessions(1)[0].request_id
    for words in ("sessions", request_id, "12,345", "772", "99.0 MiB", "7 pages"):
        assert words in text, words
    assert text.count("chatcmpl-") == 5
    unnamed = some_sessions(1, "")
    assert "000000000000  –" in "\n".join(lines(View(STATUS, history(STATUS), SOCKET, sessions=unnamed), 140, 40))
    evil = some_sessions(1, "\x1b[2J\r")
    assert not set("\x1b\r") & set("".join(lines(View(STATUS, history(STATUS), SOCKET, sessions=evil), 140, 40)))


def test_a_number_is_never_cut_off() -> None:
    pages = replace(PAGES, live=12_345_678, pending=1_234_567, lost_to_overwrite=234_567)
    big = replace(ENGINE, instance="nano-8f227f72a753492c8d58f664a7c84b55", pages=pages, outstanding=10_000)
    text = "\n".join(lines(View(replace(STATUS, engines=(big,)), history(STATUS), SOCKET), 80, 24))
    for number in ("12,345,678", "1,234,567", "234,567", "10,000", "running"):
        assert number in text


def test_without_an_answer_the_frame_says_why() -> None:
    waiting = "\n".join(lines(View(None, History(), SOCKET), 80, 24))
    assert "asking the sidecar" in waiting
    problem = "sidecar unreachable, retrying: there is no such socket"
    away = "\n".join(lines(View(None, History(), SOCKET, problem), 80, 24))
    assert problem in away


def test_an_empty_sidecar_is_shown_in_words() -> None:
    text = "\n".join(lines(View(EMPTY, history(EMPTY), SOCKET), 80, 24))
    for words in ("● not ready", "no store is open yet", "no engine is attached", "no engine has died"):
        assert words in text


def test_a_recovery_that_is_under_way_shows_what_is_known() -> None:
    under_way = replace(RECOVERY, started_instance=None, down_s=None, warm_s=None, finished_unix=None)
    text = "\n".join(lines(View(replace(STATUS, last_recovery=under_way), history(STATUS), SOCKET), 80, 24))
    assert "#3 under way" in text
    assert "next engine none yet" in text


def test_texts_of_peers_do_not_move_the_cursor() -> None:
    evil = replace(ENGINE, instance="\x1b[2J", backend="\x07\r\n")
    status = replace(STATUS, engines=(evil,), last_recovery=replace(RECOVERY, reason="\x1b[31m\n"))
    text = "".join(lines(View(status, history(status), SOCKET), 140, 40))
    assert not set("\x1b\x07\r") & set(text)


def test_a_chart_is_as_high_as_its_largest_value() -> None:
    assert chart([0, 1, 2, 4, 8], 5, 1) == "▁▁▂▄█"
    assert chart([0, 8, 16], 4, 2).splitlines() == ["   █", " ▁██"]
    assert chart([], 3, 1) == "   "
    assert chart([0, 0], 3, 1) == " ▁▁"
    assert chart([1, 2, 3, 4], 2, 1) == "▆█"
    assert chart([0, 8], 2, 1, ".:-=+*%#") == ".#"
