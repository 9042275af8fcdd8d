"""What the catalog answers, keeps and lets go of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from driving.store_samples import ROOT, claim, key, open_arena, store, store_chain, stored_names, sums
from rekindle.store import Catalog, ClaimOutcome, PublishOutcome, Slot, SlotState
from rekindle.store.check import find_violations
from rekindle_plugins.contract.errors import StoreError


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    arena, catalog, _ = open_arena(tmp_path)
    yield catalog
    assert find_violations(catalog) == []
    arena.close()


def outcome(catalog: Catalog, name: object, parent: object = None) -> ClaimOutcome:
    return catalog.claim(key(name), ROOT if parent is None else key(parent), 0, 0, [1]).outcome


def test_a_page_is_visible_only_once_it_is_published(catalog: Catalog) -> None:
    slot = claim(catalog, "a")
    assert catalog.lookup(key("a")) is None
    assert catalog.entry(slot).checksums == ()
    assert catalog.publish(slot, sums("a")) is PublishOutcome.PUBLISHED
    assert catalog.lookup(key("a")) == slot
    entry = catalog.entry(slot)
    assert (entry.key, entry.parent, entry.flags) == (key("a"), ROOT, 3)
    assert entry.tokens == tuple(key("a")[:4])
    assert list(entry.checksums) == sums("a")


def test_a_page_is_found_in_its_own_group_only(catalog: Catalog) -> None:
    slot = store(catalog, "a", group=1)
    assert catalog.lookup(key("a"), 0) is None
    assert catalog.lookup(key("a"), 1) == slot
    assert store(catalog, "a", group=2) != slot


def test_claiming_says_what_is_there_already(catalog: Catalog) -> None:
    store(catalog, "a")
    claim(catalog, "b", "a")
    assert outcome(catalog, "a") is ClaimOutcome.ALREADY_STORED
    assert outcome(catalog, "b", "a") is ClaimOutcome.ALREADY_CLAIMED
    assert outcome(catalog, "c", "nobody") is ClaimOutcome.ORPHAN
    assert outcome(catalog, "self", "self") is ClaimOutcome.ORPHAN
    claim(catalog, "c", "b")


def test_a_page_whose_parent_is_not_published_becomes_an_orphan(catalog: Catalog) -> None:
    parent, child = claim(catalog, "a"), claim(catalog, "b", "a")
    assert catalog.publish(child, sums("b")) is PublishOutcome.ORPHAN
    assert catalog.publish(parent, sums("a")) is PublishOutcome.PUBLISHED
    assert catalog.counters().free == 7


def test_a_claim_outlives_a_parent_that_left_and_came_back(catalog: Catalog) -> None:
    parent, child = claim(catalog, "a"), claim(catalog, "b", "a")
    catalog.discard(parent)
    claim(catalog, "x")  # takes the parent's old slot
    store(catalog, "a")
    assert catalog.publish(child, sums("b")) is PublishOutcome.PUBLISHED


def test_the_least_recently_used_leaf_leaves_first(catalog: Catalog) -> None:
    store_chain(catalog, *"abcd")
    store_chain(catalog, *"efgh")
    store(catalog, "i")
    assert stored_names(catalog, "abcdefghi") == "abcefghi"
    catalog.touch(Slot(catalog.lookup(key("c")) or 0))
    store_chain(catalog, *"jk")
    assert stored_names(catalog, "abcdefghijk") == "abcefijk"


def test_a_parent_is_not_evicted_for_its_own_child(catalog: Catalog) -> None:
    slots = [store(catalog, name) for name in "abcdefgh"]
    store(catalog, "i", "a")
    assert stored_names(catalog, "abcdefghi") == "acdefghi"
    for name in "cdefgh":
        catalog.pin(slots["abcdefgh".index(name)])
    catalog.hold(slots[0])
    store(catalog, "j", "a")
    assert stored_names(catalog, "aij") == "aj"


def test_nothing_is_evicted_that_is_pinned_held_or_has_a_claimed_child(catalog: Catalog) -> None:
    slots = [store(catalog, name) for name in "abcdefg"]
    claim(catalog, "child", "a")
    catalog.hold(slots[1])
    for slot in slots[2:]:
        catalog.pin(slot)
    assert outcome(catalog, "x") is ClaimOutcome.FULL
    assert outcome(catalog, "x") is ClaimOutcome.FULL
    assert catalog.counters().pinned == 5
    catalog.release(slots[1])
    assert outcome(catalog, "x") is ClaimOutcome.CLAIMED
    catalog.unpin(slots[4])
    assert outcome(catalog, "y") is ClaimOutcome.CLAIMED
    assert stored_names(catalog, "abcdefg") == "acdfg"


def test_dropping_a_page_takes_its_descendants_and_nothing_else(catalog: Catalog) -> None:
    slots = store_chain(catalog, *"abcd")
    store(catalog, "e", "b")
    store(catalog, "f", "a")
    claimed = claim(catalog, "g", "d")
    catalog.pin(slots[3])
    assert catalog.drop(slots[1]) == 4
    assert stored_names(catalog, "abcdef") == "af"
    assert catalog.publish(claimed, sums("g")) is PublishOutcome.ORPHAN
    assert catalog.counters().pinned == 0


def test_a_held_page_that_is_dropped_keeps_its_slot_until_it_is_released(catalog: Catalog) -> None:
    slot = store(catalog, "a")
    catalog.hold(slot)
    catalog.hold(slot)
    catalog.drop(slot)
    assert catalog.lookup(key("a")) is None
    assert store(catalog, "a") != slot
    catalog.release(slot)
    assert catalog.state(slot) is SlotState.LEAVING
    catalog.release(slot)
    assert catalog.state(slot) is SlotState.FREE
    with pytest.raises(StoreError, match="not held"):
        catalog.release(slot)


def test_clearing_withdraws_claims_and_waits_for_holds(catalog: Catalog) -> None:
    store_chain(catalog, *"abc")
    held, claimed = store(catalog, "d"), claim(catalog, "e", "d")
    catalog.hold(held)
    assert catalog.clear() == 4
    assert stored_names(catalog, "abcde") == ""
    again = claim(catalog, "e")
    assert again not in (held, claimed)
    assert catalog.publish(claimed, sums("e")) is PublishOutcome.WITHDRAWN
    catalog.release(held)
    counters = catalog.counters()
    assert (counters.free, counters.claimed, counters.stored, counters.waiting) == (7, 1, 0, 0)
    assert catalog.publish(again, sums("e")) is PublishOutcome.PUBLISHED


def test_the_restore_order_puts_parents_first_and_recent_chains_before_others(catalog: Catalog) -> None:
    slots = dict(zip("abc", store_chain(catalog, *"abc"), strict=True))
    slots |= dict(zip("xy", store_chain(catalog, *"xy"), strict=True))
    slots["z"] = store(catalog, "z", group=7)
    names = {slot: name for name, slot in slots.items()}

    def order(limit: int, group: int | None = None) -> str:
        return "".join(names[slot] for slot in catalog.restore_order(limit, group))

    assert order(99) == "zxyabc"
    catalog.touch(slots["c"])
    assert order(99) == "abczxy"
    assert order(99, group=0) == "abcxy"
    assert order(2) == "ab"
    assert order(0) == ""
    assert sorted(names[slot] for slot in catalog.leaves()) == ["c", "y", "z"]


@pytest.mark.parametrize(
    ("parent", "group", "flags", "tokens"),
    [
        (b"short", 0, 0, [1]),
        (ROOT, -1, 0, [1]),
        (ROOT, 1 << 16, 0, [1]),
        (ROOT, 0, 1 << 16, [1]),
        (ROOT, 0, 0, [1] * 6),
        (ROOT, 0, 0, [-1]),
        (ROOT, 0, 0, [1 << 32]),
    ],
)
def test_a_claim_that_does_not_fit_is_refused(
    catalog: Catalog, parent: bytes, group: int, flags: int, tokens: list[int]
) -> None:
    with pytest.raises(StoreError):
        catalog.claim(key("a"), parent, group, flags, tokens)
    assert catalog.counters().free == 8


def test_a_slot_in_the_wrong_state_is_refused(catalog: Catalog) -> None:
    stored, claimed = store(catalog, "a"), claim(catalog, "b")
    with pytest.raises(StoreError, match="claimed, wanted stored"):
        catalog.hold(claimed)
    with pytest.raises(StoreError, match="stored, wanted claimed"):
        catalog.discard(stored)
    with pytest.raises(StoreError, match="free, wanted"):
        catalog.entry(Slot(7))
    with pytest.raises(StoreError, match="8 slots"):
        catalog.drop(Slot(8))
    with pytest.raises(StoreError, match="1 checksums, wanted 2"):
        catalog.publish(claimed, sums("b")[:1])
