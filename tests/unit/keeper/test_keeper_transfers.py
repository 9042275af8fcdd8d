"""Transfers over a real catalog, with lanes that only remember what they were given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rekindle.copier.protocol import NO_CHECKSUM, DoneRow, SaveRow, Status
from rekindle.keeper.tally import Tally
from rekindle.keeper.transfers import Transfers
from rekindle.store import PageGeometry, Store
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
