"""The catalog against a simple model, in random orders of events, with exact LRU predictions."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from driving.store_samples import ROOT, key, open_arena, sums
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from rekindle.store import ClaimOutcome, PublishOutcome, Slot
from rekindle.store.check import find_violations
from rekindle.store.presence import PresenceFilter

SLOTS = 6
NAMES = st.integers(0, 13)


def parent_of(name: int) -> int | None:
    """The family tree of the test's pages: three roots, chains and forks."""
    return None if name < 3 else (name - 3) * 2 // 3


@dataclass
class Claimed:
    slot: Slot
    is_linked: bool


@dataclass
class Model:
    stored: dict[int, int] = field(default_factory=dict)  # name -> tick
    claimed: dict[int, Claimed] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    holds: dict[int, int] = field(default_factory=dict)
    withdrawn: list[Slot] = field(default_factory=list)
    leaving: dict[Slot, int] = field(default_factory=dict)
    tick: int = 0

    def use(self, name: int) -> int:
        self.tick += 1
        return self.tick

    def free(self) -> int:
        return SLOTS - len(self.stored) - len(self.claimed) - len(self.withdrawn) - len(self.leaving)

    def victim(self, spared: int | None) -> int | None:
        parents = {parent_of(name) for name in self.stored} | {spared}
        parents |= {parent_of(name) for name, claimed in self.claimed.items() if claimed.is_linked}
        fixed = parents | self.pinned | set(self.holds)
        return min((name for name in self.stored if name not in fixed), key=lambda n: self.stored[n], default=None)

    def unlink_children(self, name: int) -> None:
        for child, claimed in self.claimed.items():
            if parent_of(child) == name:
                claimed.is_linked = False

    def subtree(self, name: int) -> list[int]:
        children = [child for child in self.stored if parent_of(child) == name]
        return [name, *(one for child in children for one in self.subtree(child))]


class CatalogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.model = Model()
        self.ticks: dict[int, int] = {}  # of claimed pages
        self.open()

    def open(self) -> None:
        self.arena, self.catalog, self.report = open_arena(Path(self.directory.name), SLOTS)
        self.filter = PresenceFilter(SLOTS)
        self.catalog.attach(self.filter)

    def teardown(self) -> None:
        self.arena.close()
        self.filter.close()
        self.directory.cleanup()

    def slot(self, name: int) -> Slot:
        slot = self.catalog.lookup(key(name))
        assert slot is not None
        return slot

    @rule(name=NAMES)
    def claim(self, name: int) -> None:
        model, parent = self.model, parent_of(name)
        got = self.catalog.claim(key(name), ROOT if parent is None else key(parent), 0, 0, [name])
        if name in model.stored:
            assert got.outcome is ClaimOutcome.ALREADY_STORED
            model.stored[name] = model.use(name)
        elif name in model.claimed:
            assert got.outcome is ClaimOutcome.ALREADY_CLAIMED
        elif parent is not None and parent not in model.stored and parent not in model.claimed:
            assert got.outcome is ClaimOutcome.ORPHAN
        else:
            victim = model.victim(parent) if model.free() == 0 else None
            if model.free() == 0 and victim is None:
                assert got.outcome is ClaimOutcome.FULL
                return
            if victim is not None:
                del model.stored[victim]
                model.unlink_children(victim)
            assert got.outcome is ClaimOutcome.CLAIMED
            assert got.slot is not None
            model.claimed[name] = Claimed(got.slot, parent is not None)
            self.ticks[name] = model.use(name)

    @rule(name=NAMES)
    def publish(self, name: int) -> None:
        model, parent = self.model, parent_of(name)
        if name not in model.claimed:
            return
        got = self.catalog.publish(model.claimed.pop(name).slot, sums(name))
        if parent is None or parent in model.stored:
            assert got is PublishOutcome.PUBLISHED
            model.stored[name] = self.ticks[name]
        else:
            assert got is PublishOutcome.ORPHAN
            model.unlink_children(name)

    @rule(name=NAMES)
    def discard(self, name: int) -> None:
        if name in self.model.claimed:
            self.catalog.discard(self.model.claimed.pop(name).slot)
            self.model.unlink_children(name)

    @rule(name=NAMES)
    def drop(self, name: int) -> None:
        model = self.model
        if name not in model.stored:
            return
        leaving = model.subtree(name)
        self.leave(leaving)
        for one in leaving:
            model.unlink_children(one)
        assert self.catalog.drop(self.slot(name)) == len(leaving)

    def leave(self, names: list[int]) -> None:
        model = self.model
        for name in names:
            del model.stored[name]
            model.pinned.discard(name)
            if name in model.holds:
                model.leaving[self.slot(name)] = model.holds.pop(name)

    @rule(name=NAMES)
    def pin(self, name: int) -> None:
        if name in self.model.stored:
            self.catalog.pin(self.slot(name))
            self.model.pinned.add(name)

    @rule(name=NAMES)
    def unpin(self, name: int) -> None:
        if name in self.model.stored:
            self.catalog.unpin(self.slot(name))
            self.model.pinned.discard(name)

    @rule(name=NAMES)
    def touch(self, name: int) -> None:
        if name in self.model.stored:
            self.catalog.touch(self.slot(name))
            self.model.stored[name] = self.model.use(name)

    @rule(name=NAMES)
    def hold(self, name: int) -> None:
        if name in self.model.stored:
            self.catalog.hold(self.slot(name))
            self.model.holds[name] = self.model.holds.get(name, 0) + 1

    @rule(name=NAMES)
    def release(self, name: int) -> None:
        model = self.model
        if name in model.holds:
            self.catalog.release(self.slot(name))
            model.holds[name] -= 1
            if not model.holds[name]:
                del model.holds[name]
        elif model.leaving:
            slot = next(iter(model.leaving))
            self.catalog.release(slot)
            model.leaving[slot] -= 1
            if not model.leaving[slot]:
                del model.leaving[slot]

    @rule()
    def give_back_withdrawn(self) -> None:
        if self.model.withdrawn:
            assert self.catalog.publish(self.model.withdrawn.pop(), sums(0)) is PublishOutcome.WITHDRAWN

    @rule(is_sure=st.sampled_from([False, False, True]))
    def clear(self, is_sure: bool) -> None:
        model = self.model
        if is_sure:
            count = len(model.stored)
            self.leave(list(model.stored))
            model.withdrawn += [claimed.slot for claimed in model.claimed.values()]
            model.claimed.clear()
            assert self.catalog.clear() == count

    @rule()
    def reopen(self) -> None:
        self.arena.close()
        self.filter.close()
        self.open()
        model = self.model
        model.claimed, model.holds, model.withdrawn, model.leaving = {}, {}, [], {}
        assert self.report.dropped_total == 0
        assert self.report.kept == len(model.stored)

    @invariant()
    def the_catalog_agrees_with_the_model(self) -> None:
        model, counters = self.model, self.catalog.counters()
        assert find_violations(self.catalog) == []
        for name in range(14):
            slot = self.catalog.lookup(key(name))
            assert (slot is not None) == (name in model.stored)
            if slot is not None:
                entry = self.catalog.entry(slot)
                assert (entry.tokens, entry.pinned) == ((name,), name in model.pinned)
                assert self.filter.has(key(name))
        assert (counters.pinned, counters.held) == (len(model.pinned), len(model.holds) + len(model.leaving))
        assert counters.free == model.free()
        restored = self.catalog.restore_order(SLOTS)
        assert len(restored) == len(model.stored)
        for position, slot in enumerate(restored):
            assert self.catalog.parent(slot) in (None, *restored[:position])


CatalogMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


TestTheCatalogBehavesAsItsModel = CatalogMachine.TestCase
