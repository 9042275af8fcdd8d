"""Transfers over a real catalog, with lanes that only remember what they were given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rekindle.copier.protocol import NO_CHECKSUM, DoneRow, SaveRow, Status
from rekindle.keeper.tally import Tally
from rekindle.keeper.transfers import Transfers
from rekindle.store import Catalog, PageGeometry, Store
from rekindle_plugins.contract.journal import ROOT, Record


@dataclass
class RememberingLane:
    saves: list[SaveRow] = field(default_factory=list)

    def save(self, row: SaveRow) -> None:
        self.saves.append(row)

    def flush(self) -> None:
        return


def record(page_id: int, epoch: int) -> Record:
    return Record(page_id, epoch, 0, 0, b"k" * 32, ROOT, (1, 2))


def test_a_page_announced_anew_while_its_old_copy_fails_is_copied_from_its_new_place(tmp_path: Path) -> None:
    with Store(tmp_path, 1 << 20) as store:
        opened = store.open(b"i" * 32, "{}", PageGeometry(64, 1, 2))
        lane = RememberingLane()
        transfers = Transfers(opened.catalog, [64], Tally(), lambda _, __: None, lanes=[lane])  # type: ignore[list-item]
        transfers.save([record(3, 1)])
        transfers.save([record(5, 9)])
        (old,) = lane.saves
        transfers.take_rows(0, [(old, DoneRow(old.slot, 3, Status.FENCE_MOVED, NO_CHECKSUM))])
        new = lane.saves[-1]
        assert (new.page_id, new.epoch) == (5, 9)
        transfers.take_rows(0, [(new, DoneRow(new.slot, 5, Status.OK, b"c" * 16))])
        assert opened.catalog.lookup(b"k" * 32) is not None
        assert transfers.saving == 0


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Store(tmp_path, 1 << 20) as store:
        yield store.open(b"i" * 32, "{}", PageGeometry(64, 1, 2)).catalog


class Engine:
    """One of two engines of one identity: its transfers, and copiers that answer when the test says so."""

    def __init__(self, catalog: Catalog) -> None:
        self.lane = RememberingLane()
        self.tally = Tally()
        self.woken = 0
        self.transfers = Transfers(
            catalog,
            [64],
            self.tally,
            lambda _, __: None,
            lanes=[self.lane],  # type: ignore[list-item]
            wake=self._wake,
        )

    def _wake(self) -> None:
        self.woken += 1

    def commit(self, name: str, parent: str = "") -> None:
        parent_key = key(parent) if parent else ROOT
        self.transfers.save([Record(0, 0, 0, 0, key(name), parent_key, (1, 2))])

    def copied(self) -> None:
        """Its copier has done everything it was given."""
        rows, self.lane.saves = self.lane.saves, []
        self.transfers.take_rows(0, [(row, DoneRow(row.slot, row.page_id, Status.OK, b"c" * 16)) for row in rows])

    def copier_died(self) -> None:
        rows, self.lane.saves = self.lane.saves, []
        self.transfers.take_rows(0, [(row, None) for row in rows])


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def test_a_page_that_another_engine_failed_to_copy_is_copied_from_here(catalog: Catalog) -> None:
    one, two = Engine(catalog), Engine(catalog)
    one.commit("system prompt")
    two.commit("system prompt")
    two.commit("question", "system prompt")
    assert two.transfers.elsewhere == 1
    one.copier_died()
    assert two.woken == 1
    two.copied()  # the question, without its parent; and the parent is begun
    assert two.tally.rejected == {"orphan": 1}
    two.copied()
    assert catalog.lookup(key("system prompt")) is not None
    assert two.transfers.needs_announce, "the question can follow now"
    assert two.transfers.elsewhere == 0


def test_a_page_that_another_engine_stored_lets_those_below_it_follow(catalog: Catalog) -> None:
    one, two = Engine(catalog), Engine(catalog)
    one.commit("system prompt")
    two.commit("system prompt")
    two.commit("question", "system prompt")
    two.copied()
    assert two.tally.rejected == {"orphan": 1}
    assert not two.transfers.needs_announce
    one.copied()
    assert two.transfers.needs_announce
    assert two.woken == 1
    assert two.tally.already_stored == 1
    assert two.transfers.elsewhere == 0


def test_another_engines_reset_makes_this_one_announce_its_pages_again(catalog: Catalog) -> None:
    one, two = Engine(catalog), Engine(catalog)
    two.commit("stored")
    two.copied()
    two.commit("under way")
    catalog.clear()
    assert (two.transfers.needs_announce, two.woken) == (True, 1)
    two.transfers.needs_announce = False
    two.copied()
    assert catalog.lookup(key("under way")) is None
    assert two.transfers.needs_announce, "what was under way has been withdrawn"
    assert one.lane.saves == []


def test_a_withdrawn_claim_of_another_engine_makes_room_for_ours(catalog: Catalog) -> None:
    one, two = Engine(catalog), Engine(catalog)
    one.commit("system prompt")
    two.commit("system prompt")
    catalog.clear()
    one.copied()
    two.transfers.save(())
    two.copied()
    assert catalog.lookup(key("system prompt")) is not None
