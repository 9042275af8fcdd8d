"""One store directory: its lock, its budget, its arenas of several identities."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from driving.store_samples import DIGEST, IDENTITY, PAGE, store_chain, stored_names
from rekindle.store import OpenedArena, PageGeometry, Store
from rekindle_plugins.contract.errors import InUseError, StoreError, StoreFullError

BUDGET = 200_000


def open_identity(home: Store, name: str, page: PageGeometry = PAGE) -> OpenedArena:
    return home.open(hashlib.sha256(name.encode()).digest(), f'{{"model":"{name}"}}', page)


def age(home: Store, *names: str) -> None:
    """Make these arenas look opened long ago, the first named longest."""
    for number, name in enumerate(names):
        path = home.directory / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.arena"
        os.utime(path, (1000 + number, 1000 + number))


def used_bytes(home: Store) -> int:
    return sum(file.stat().st_size for file in home.directory.glob("*.arena*"))


def test_two_sidecars_never_share_a_store(tmp_path: Path) -> None:
    with Store(tmp_path, BUDGET), pytest.raises(InUseError, match=rf"pid {os.getpid()}.*stop the other"):
        Store(tmp_path, BUDGET)
    Store(tmp_path, BUDGET).close()


def test_an_arena_takes_the_budget_and_no_more(tmp_path: Path) -> None:
    with Store(tmp_path / "new", BUDGET) as home:
        arena, _, report = open_identity(home, "a")
        assert BUDGET - 4096 - 2 * (PAGE.slot_bytes + PAGE.record_bytes) < used_bytes(home) <= BUDGET
        assert (report.kept, report.messages) == (0, ())
        assert arena.geometry.slot_count > 100


def test_pages_are_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    with Store(tmp_path, BUDGET) as home:
        store_chain(home.open(DIGEST, IDENTITY, PAGE).catalog, *"abc")
    with Store(tmp_path, BUDGET * 2) as home:
        _, catalog, report = home.open(DIGEST, IDENTITY, PAGE)
        assert report.kept == 3
        assert stored_names(catalog, "abc") == "abc"
        with pytest.raises(StoreError, match="open already"):
            home.open(DIGEST, IDENTITY, PAGE)


def test_other_arenas_are_listed_with_their_identity(tmp_path: Path) -> None:
    with Store(tmp_path, BUDGET) as home:
        first = open_identity(home, "a")
        home.close_arena(first.arena)
        (other,) = home.others(DIGEST)
        assert (other.identity_json, other.is_active) == ('{"model":"a"}', False)
        assert other.header is not None
        assert other.header.identity_digest == first.arena.identity_digest
        assert home.others(first.arena.identity_digest) == []
        os.pwrite(os.open(other.path, os.O_RDWR), b"!", 8195)
        assert home.arenas()[0].identity_json is None


def test_the_least_recently_opened_arenas_make_room_for_a_new_one(tmp_path: Path) -> None:
    with Store(tmp_path, BUDGET // 4) as home:
        home.close_arena(open_identity(home, "a").arena)
    with Store(tmp_path, BUDGET // 2) as home:
        home.close_arena(open_identity(home, "b").arena)
    with Store(tmp_path, BUDGET) as home:
        home.close_arena(open_identity(home, "c").arena)
        age(home, "b", "a", "c")
        report = open_identity(home, "d").report
        assert len(report.messages) == 2
        assert [one.identity_json for one in home.arenas()] == ['{"model":"c"}', '{"model":"d"}']
        assert "was deleted: its room is needed" in report.messages[0]
        assert used_bytes(home) <= BUDGET


def test_an_open_arena_is_never_deleted_for_another(tmp_path: Path) -> None:
    with Store(tmp_path, BUDGET) as home:
        open_identity(home, "a")
        with pytest.raises(StoreFullError, match=r"fewer than 4 pages.*raise store_size"):
            open_identity(home, "b")
        assert len(home.arenas()) == 1


def test_a_smaller_budget_makes_the_arena_anew(tmp_path: Path) -> None:
    with Store(tmp_path, BUDGET) as home:
        store_chain(home.open(DIGEST, IDENTITY, PAGE).catalog, *"abc")
    with Store(tmp_path, BUDGET // 2) as home:
        report = home.open(DIGEST, IDENTITY, PAGE).report
        assert report.kept == 0
        assert "exceed the budget" in report.messages[0]
        assert used_bytes(home) <= BUDGET // 2


def test_a_damaged_arena_is_kept_aside_only_within_the_budget(tmp_path: Path) -> None:
    for budget, is_kept in ((BUDGET, False), (BUDGET * 3, True)):
        with Store(tmp_path / str(budget), BUDGET) as home:
            path = home.open(DIGEST, IDENTITY, PAGE).arena.path
        path.write_bytes(b"?" * path.stat().st_size)
        with Store(tmp_path / str(budget), budget) as home:
            report = home.open(DIGEST, IDENTITY, PAGE).report
            assert "set aside" in report.messages[0]
            assert (report.set_aside is not None) == is_kept
            assert used_bytes(home) <= budget


def test_a_store_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path, 20_000) as home, pytest.raises(StoreFullError, match="raise store_size"):
        home.open(DIGEST, IDENTITY, PAGE)


def test_what_an_unfinished_creation_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "00.arena.new"
    leftover.write_bytes(b"x")
    with Store(tmp_path, BUDGET) as home:
        assert not leftover.exists()
        assert "never finished" in home.open(DIGEST, IDENTITY, PAGE).report.messages[0]
