"""The state of every slot, and the stack of free ones.

Runs in the keeper, on its one thread; only the catalog uses it. One slot's life is a pure transition table;
``SlotTable`` applies it and counts.
"""

from __future__ import annotations

import enum

import numpy as np
from rekindle_plugins.contract.errors import StoreError

from rekindle.store.page import I64, U32, Mask, Slot


class SlotState(enum.IntEnum):
    """Where a slot stands. Only STORED and CLAIMED slots are in the index; only STORED ones are visible."""

    FREE = 0
    CLAIMED = 1
    STORED = 2
    WITHDRAWN = 3  # claimed when the catalog was cleared: a copier may still write into it
    LEAVING = 4  # dropped while held: a copier may still read from it


class SlotEvent(enum.IntEnum):
    """What can happen to a slot. "Held" means that its hold count is above zero."""

    CLAIM = 0
    PUBLISH = 1
    GIVE_BACK = 2
    WITHDRAW = 3
    REMOVE = 4
    REMOVE_HELD = 5
    LAST_RELEASE = 6


SLOT_TRANSITIONS: dict[tuple[int, SlotEvent], SlotState] = {
    (SlotState.FREE, SlotEvent.CLAIM): SlotState.CLAIMED,
    (SlotState.CLAIMED, SlotEvent.PUBLISH): SlotState.STORED,
    (SlotState.CLAIMED, SlotEvent.GIVE_BACK): SlotState.FREE,
    (SlotState.CLAIMED, SlotEvent.WITHDRAW): SlotState.WITHDRAWN,
    (SlotState.WITHDRAWN, SlotEvent.GIVE_BACK): SlotState.FREE,
    (SlotState.STORED, SlotEvent.REMOVE): SlotState.FREE,
    (SlotState.STORED, SlotEvent.REMOVE_HELD): SlotState.LEAVING,
    (SlotState.LEAVING, SlotEvent.LAST_RELEASE): SlotState.FREE,
}
"""The life of a slot. A pair that is not listed is a bug of the caller and raises ``StoreError``."""


class SlotTable:
    """States by slot, counts by state, free slots (the lowest numbers first at the start)."""

    def __init__(self, slot_count: int) -> None:
        self.states = np.full(slot_count, SlotState.FREE, dtype=np.uint8)
        self.items = self.states.data
        self.counts = [0] * len(SlotState)
        self._free: U32 = np.zeros(slot_count, dtype=np.uint32)
        self._free_items = self._free.data
        self.load(np.empty(0, dtype=np.uint32))

    def load(self, stored: U32) -> None:
        """Start over: these slots are STORED, all others FREE."""
        self.states.fill(SlotState.FREE)
        self.states[stored] = SlotState.STORED
        self.counts = [0] * len(SlotState)
        self.counts[SlotState.STORED] = len(stored)
        self._push_free(np.flatnonzero(self.states == SlotState.FREE)[::-1])

    def of_state(self, state: SlotState) -> Mask:
        """(slot_count,) which slots are in ``state``."""
        mask: Mask = self.states == state
        return mask

    def next_free(self) -> Slot | None:
        """The free slot that is to be claimed next; it stays free until ``move`` claims it."""
        free = self.counts[SlotState.FREE]
        return Slot(self._free_items[free - 1]) if free else None

    def move(self, slot: int, event: SlotEvent) -> None:
        """Apply an event to one slot.

        Raises:
            StoreError: the table has no such transition, or a claim is not of ``next_free``.
        """
        # Plain numbers and IntEnum members compare and hash alike, and making a member costs more than the rest.
        old = self.items[slot]
        new = SLOT_TRANSITIONS.get((old, event))
        if new is None or (old == SlotState.FREE and self.next_free() != slot):
            raise StoreError(event.name.lower(), f"slot {slot}", f"it is {SlotState(old).name.lower()}")
        self.items[slot] = new
        self.counts[old] -= 1
        self.counts[new] += 1
        if new == SlotState.FREE:
            self._free_items[self.counts[new] - 1] = slot

    def move_all(self, slots: I64, old: SlotState, event: SlotEvent) -> None:
        """Apply an event to many slots, all of which are in ``old``.

        Raises:
            StoreError: the table has no such transition.
        """
        new = SLOT_TRANSITIONS.get((old, event))
        if new is None:
            raise StoreError(event.name.lower(), f"{len(slots)} slots", f"they are {old.name.lower()}")
        self.states[slots] = new
        self.counts[old] -= len(slots)
        if new == SlotState.FREE:
            self._push_free(slots)
        else:
            self.counts[new] += len(slots)

    def _push_free(self, slots: I64) -> None:
        free = self.counts[SlotState.FREE]
        self._free[free : free + len(slots)] = slots
        self.counts[SlotState.FREE] = free + len(slots)
