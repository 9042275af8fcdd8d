"""Checks a catalog against its arena: every way in which its invariants are broken, in words.

Runs in tests and on an operator's demand; O(slots), far too slow for every change.
"""

from __future__ import annotations

from rekindle.store.catalog import Catalog
from rekindle.store.page import ROOT_PARENT, Slot
from rekindle.store.slot_table import SlotState


def find_violations(catalog: Catalog) -> list[str]:
    """Sentences about what is wrong; empty where all is well. The invariants are ``rekindle.store.catalog``'s."""
    slot_count = catalog.arena.geometry.slot_count
    states = [catalog.state(Slot(slot)) for slot in range(slot_count)]
    found: list[str] = []
    for number, state in enumerate(states):
        slot = Slot(number)
        is_committed = catalog.arena.is_committed(slot)
        if is_committed != (state == SlotState.STORED):
            found.append(f"slot {slot} is {state.name}, and its record is committed: {is_committed}")
        if state == SlotState.STORED:
            found += _stored_violations(catalog, slot)
    counters = catalog.counters()
    counted = [counters.free, counters.claimed, counters.stored]
    actual = [states.count(state) for state in (SlotState.FREE, SlotState.CLAIMED, SlotState.STORED)]
    if counted != actual:
        found.append(f"counted {counted} slots free, claimed, stored, where there are {actual}")
    return found


def _stored_violations(catalog: Catalog, slot: Slot) -> list[str]:
    found = []
    entry = catalog.entry(slot)
    if catalog.lookup(entry.key, entry.group) != slot:
        found.append(f"slot {slot} is stored, and the index has its page elsewhere or not at all")
    parent = catalog.parent(slot)
    if entry.parent == ROOT_PARENT:
        if parent is not None:
            found.append(f"slot {slot} is a root, and is linked to slot {parent}")
    elif parent is None or catalog.lookup(entry.parent, entry.group) != parent:
        found.append(f"slot {slot} is an orphan")
    elif slot not in catalog.children(parent):
        found.append(f"slot {slot} is not among the children of slot {parent}")
    return found
