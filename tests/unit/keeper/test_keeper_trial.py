"""A trial over a real catalog: what is withheld, and what is dropped once a start has done well without it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rekindle.keeper.stores import OpenStore
from rekindle.keeper.suspects import Suspects
from rekindle.keeper.transfers import FillRow
from rekindle.keeper.trial import Trial
from rekindle.lifecycle.suspicion import HEALTHY_STEPS, Life, Record
from rekindle.store import PageGeometry, Store
from rekindle.store.presence import PresenceFilter
from rekindle_plugins.contract.identity import REQUIRED, Identity
from rekindle_plugins.contract.journal import ROOT
from rekindle_plugins.contract.presence import Presence

IDENTITY = Identity.of(dict.fromkeys(REQUIRED, "0"))
PAGE = PageGeometry(64, 1, 2)
CRASHED = Life(was_given_pages=True, is_busy=True, steps_finished=1)
HEALTHY = Life(was_given_pages=True, is_busy=True, steps_finished=HEALTHY_STEPS)


def key(number: int) -> bytes:
    return bytes([number]) * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OpenStore]:
    """Two chains of three pages: 1 → 2 → 3 and 11 → 12 → 13."""
    with Store(tmp_path, 1 << 20) as directory:
        opened = directory.open(IDENTITY.digest, IDENTITY.to_text(), PAGE)
        presence = PresenceFilter(opened.arena.geometry.slot_count)
        opened.catalog.attach(presence)
        store = OpenStore(IDENTITY, PAGE, opened.arena, opened.catalog, presence, opened.report)
        for first in (1, 11):
            for number in range(first, first + 3):
                put(store, number, key(number - 1) if number > first else ROOT)
        yield store
        presence.close()


def put(store: OpenStore, number: int, parent: bytes) -> None:
    claim = store.catalog.claim(key(number), parent, 0, 0, (1, 2))
    if claim.slot is not None and store.catalog.lookup(key(number)) is None:
        store.catalog.publish(claim.slot, [b"c" * 16])


def use(store: OpenStore, *numbers: int) -> None:
    """As a fill does."""
    for number in numbers:
        slot = store.catalog.lookup(key(number))
        assert slot is not None
        store.catalog.touch(slot)


def planned(trial: Trial, limit: int = 100) -> list[int]:
    return [entry.key[0] for entry in trial.plan(limit)]


def crash(store: OpenStore, suspects: Suspects, *restored: int) -> None:
    trial = Trial("engine", store, suspects)
    use(store, *restored)
    trial.ended(CRASHED)
    trial.close()


def test_one_death_changes_nothing(tmp_path: Path, store: OpenStore) -> None:
    suspects = Suspects(tmp_path)
    crash(store, suspects, 1, 2, 3)
    trial = Trial("engine", store, suspects)
    assert planned(trial) == [1, 2, 3, 11, 12, 13]
    assert trial.presence_fd == store.presence.fd
    assert trial.stored_pages == 6
    assert "restored once more" in trial.text


def test_after_two_the_pages_that_were_restored_and_what_hangs_on_them_are_withheld(
    tmp_path: Path, store: OpenStore
) -> None:
    suspects = Suspects(tmp_path)
    crash(store, suspects, 1, 2)
    crash(store, suspects, 1)
    trial = Trial("engine", store, suspects)
    assert planned(trial) == [11, 12, 13]
    assert planned(trial, limit=2) == [11, 12]
    rows = [FillRow(page, 1, 0, key(number)) for page, number in enumerate((1, 2, 11))]
    assert trial.refused(rows) == rows[:2]
    assert trial.presence_fd != store.presence.fd
    trial.close()


def test_after_three_nothing_is_given(tmp_path: Path, store: OpenStore) -> None:
    suspects = Suspects(tmp_path)
    for restored in ((1, 2, 3), (1, 2, 3), (11,)):
        crash(store, suspects, *restored)
    trial = Trial("engine", store, suspects)
    assert planned(trial) == []
    assert trial.stored_pages == 0
    rows = [FillRow(1, 1, 0, key(11))]
    assert trial.refused(rows) == rows
    trial.close()


def test_a_start_that_does_well_without_the_suspects_has_them_dropped_and_may_ask_again(
    tmp_path: Path, store: OpenStore
) -> None:
    suspects = Suspects(tmp_path)
    crash(store, suspects, 1, 2)
    crash(store, suspects, 1, 2)
    trial = Trial("engine", store, suspects)
    filter_ = Presence(os.dup(trial.presence_fd))
    assert not filter_.has(key(11))
    assert asyncio.run(trial.prove()) == 3, "the third hung on the second"
    assert filter_.has(key(11))
    assert not filter_.has(key(1))
    put(store, 1, ROOT)
    assert filter_.has(key(1)), "it hears of what is stored from now on"
    assert trial.is_over
    trial.close()
    put(store, 2, key(1))
    filter_.close()
    assert Suspects(tmp_path).record(IDENTITY.digest) == Record()
    assert planned(Trial("engine", store, suspects)) == [1, 2, 11, 12, 13]


def test_an_engine_that_dies_healthy_ends_the_row(tmp_path: Path, store: OpenStore) -> None:
    suspects = Suspects(tmp_path)
    crash(store, suspects, 1, 2, 3)
    Trial("engine", store, suspects).ended(HEALTHY)
    assert suspects.record(IDENTITY.digest) == Record()
