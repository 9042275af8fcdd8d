"""Under backlog the newest conversation goes first, and no page goes before its parent."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rekindle.keeper import backlog as backlog_module
from rekindle.keeper.backlog import MAX_RECORDS, MAX_TOKENS, Backlog
from rekindle_plugins.contract.journal import ROOT, Record


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest() if name else ROOT


def record(name: str, parent: str = "", group: int = 0, page_id: int = 0, epoch: int = 0) -> Record:
    return Record(page_id, epoch, group, 0, key(name), key(parent), (1,))


def names(records: list[Record], *known: str) -> list[str]:
    by_key = {key(name): name for name in known}
    return [by_key[record.key] for record in records]


def test_one_conversation_comes_out_as_it_went_in() -> None:
    backlog = Backlog()
    for name, parent in (("a", ""), ("b", "a"), ("c", "b")):
        backlog.add(record(name, parent))
    assert names(backlog.take(2), "a", "b", "c") == ["a", "b"]
    assert names(backlog.take(9), "a", "b", "c") == ["c"]
    assert len(backlog) == 0


def test_the_conversation_that_was_added_to_last_goes_first() -> None:
    backlog = Backlog()
    for name, parent in (("old 1", ""), ("new 1", ""), ("new 2", "new 1"), ("old 2", "old 1")):
        backlog.add(record(name, parent))
    assert names(backlog.take(9), "old 1", "old 2", "new 1", "new 2") == ["old 1", "old 2", "new 1", "new 2"]


def test_a_child_of_what_was_taken_starts_anew() -> None:
    backlog = Backlog()
    backlog.add(record("a"))
    backlog.add(record("x"))
    backlog.take(1)
    backlog.add(record("y", "x"))
    assert names(backlog.take(9), "a", "y") == ["y", "a"]


def test_groups_have_chains_of_their_own() -> None:
    backlog = Backlog()
    backlog.add(record("a", group=0))
    backlog.add(record("b", "a", group=1))
    assert [r.group for r in backlog.take(9)] == [1, 0]


def test_large_pages_have_room_for_fewer_records() -> None:
    assert Backlog(256).room == MAX_RECORDS
    assert Backlog(16 << 10).room == MAX_TOKENS // (16 << 10) == 64
    assert Backlog(2 * MAX_TOKENS).room == 1


def test_stale_records_make_room_and_the_order_stays() -> None:
    backlog = Backlog()
    for number, (name, parent) in enumerate([("a", ""), ("x", ""), ("b", "a"), ("y", "x")]):
        backlog.add(record(name, parent, page_id=number))
    assert backlog.drop(lambda r: r.page_id == 2) == 1
    assert names(backlog.take(9), "a", "x", "y") == ["x", "y", "a"]
    assert backlog.room == MAX_RECORDS


def test_a_page_that_was_announced_again_still_goes_before_its_child() -> None:
    backlog = Backlog()
    backlog.add(record("a", page_id=1))
    backlog.add(record("a", page_id=2))
    backlog.take(1)
    backlog.add(record("b", "a", page_id=3))
    assert [r.page_id for r in backlog.take(9)] == [2, 3]


def test_the_oldest_chains_go_for_newer_ones_but_never_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "MAX_RECORDS", 6)
    backlog = Backlog()
    for name, parent in [("a", ""), ("x", ""), ("y", "x"), ("b", "a"), ("c", "b"), ("new", "")]:
        backlog.add(record(name, parent))
    assert backlog.room == 0
    assert backlog.drop_oldest(1) == 2
    assert names(backlog.take(1), "new") == ["new"]
    backlog.add(record("z", "y"))
    backlog.add(record("d", "c"))
    assert backlog.drop_oldest(4) == 1
    assert backlog.drop_oldest(6) == 0
    assert names(backlog.take(9), "a", "b", "c", "d") == ["a", "b", "c", "d"]
    assert (len(backlog), backlog.room) == (0, 6)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=80), st.integers(1, 5))
def test_nothing_is_lost_or_doubled_and_parents_come_before_children(steps: list[tuple[int, bool]], limit: int) -> None:
    """Trees of random shape; the parent of a record is one that was added before it, or none."""
    backlog = Backlog()
    added: list[Record] = []
    taken: list[Record] = []
    for number, (pick, takes) in enumerate(steps):
        parent = f"{pick % number}" if number and pick else ""
        added.append(record(f"{number}", parent, page_id=number))
        backlog.add(added[-1])
        if takes:
            taken += backlog.take(limit)
    taken += backlog.take(len(added))
    assert sorted(r.page_id for r in taken) == list(range(len(added)))
    place = {r.key: index for index, r in enumerate(taken)}
    for r in taken:
        assert r.parent == ROOT or place[r.parent] < place[r.key]
