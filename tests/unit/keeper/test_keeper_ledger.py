"""Totals: nothing that an engine counted is lost when it goes, and nothing is counted twice."""

from __future__ import annotations

from rekindle.keeper import ledger as ledger_module
from rekindle.keeper.ledger import Ledger, backend_totals, copier_totals, summed
from rekindle.keeper.tally import CopierWork, Tally


def tally(pages: int, **reasons: int) -> Tally:
    made = Tally(checkpointed=pages, steps=2 * pages, bytes_checkpointed=64 * pages)
    for reason, count in reasons.items():
        made.reject(reason, count)
    made.copiers[0].add(CopierWork(saved_bytes=64 * pages))
    return made


def test_what_a_dead_engine_counted_stays_in_the_totals() -> None:
    ledger = Ledger()
    engine = tally(5, checksum=1)
    before = backend_totals(ledger.by_backend([("nano", engine)])["nano"])
    ledger.settle("nano", engine)
    assert backend_totals(ledger.by_backend([])["nano"]) == before
    fresh = tally(3, checksum=2, orphan=1)
    for _ in range(2):
        after = backend_totals(ledger.by_backend([("nano", fresh)])["nano"])
        assert (after.checkpointed, after.steps, after.rejected) == (8, 16, {"checksum": 3, "orphan": 1})
    assert engine.checkpointed == 5
    assert fresh.rejected == {"checksum": 2, "orphan": 1}


def test_backends_are_apart_and_copiers_are_added_up_by_rank() -> None:
    ledger = Ledger()
    ledger.settle("nano", tally(1))
    two = ledger.by_backend([("vllm", tally(2))])
    assert {name: found.checkpointed for name, found in two.items()} == {"nano": 1, "vllm": 2}
    assert copier_totals(summed(two.values()))[0].saved_bytes == 3 * 64


def test_endless_backends_become_other() -> None:
    ledger = Ledger()
    for number in range(100):
        ledger.settle(f"backend-{number}", tally(1))
    found = ledger.by_backend([("one-more", tally(1))])
    assert len(found) == ledger_module.MAX_BACKENDS + 1
    assert found[ledger_module.OTHER].checkpointed == 101 - ledger_module.MAX_BACKENDS


def test_a_copier_is_busy_from_its_first_row_to_its_last() -> None:
    work = CopierWork()
    assert work.busy_s == 0
    work.set_busy(True)
    work.set_busy(True)
    first = work.busy_s
    work.set_busy(False)
    ended = work.busy_s
    assert 0 < first <= ended
    assert work.busy_s == ended
