"""The catalog: which page lies in which slot, who may leave, and every change to the arena's records.

Runs in the keeper, on its event-loop thread, once it is made (by the thread that opened the arena): no method
awaits or blocks, and none touches page bytes. The keeper and the admin side call it; copiers never do.

Life of a slot (``slot_table.SLOT_TRANSITIONS``): claim -> a copier fills it -> publish or discard. A claimed page
is in the index, so that nobody claims it twice, but it is not visible. Only a stored page is.

Invariants, checked by ``check.find_violations`` and kept across a SIGKILL at any instant:

    1. a stored page's parent is stored, or it is a root
    2. a record is committed if and only if its slot is stored, and the index finds it there
    3. no (key, group) is in the index twice
    4. a page that is held, pinned, or has a child (stored or claimed) is not evicted
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rekindle_plugins.contract.errors import StoreError

from rekindle.store.arena import Arena
from rekindle.store.arena_file import Step, no_step
from rekindle.store.eviction import BATCH, EvictionQueue
from rekindle.store.family import NO_SLOT, Family
from rekindle.store.index import PageIndex
from rekindle.store.page import (
    CHECKSUM_BYTES,
    I64,
    KEY_BYTES,
    ROOT_PARENT,
    U16,
    U64,
    ChangeListener,
    Claim,
    ClaimOutcome,
    Counters,
    PageEntry,
    PublishOutcome,
    Slot,
)
from rekindle.store.recovery import recover_pages
from rekindle.store.report import OpenLog
from rekindle.store.restore_order import restore_order
from rekindle.store.slot_table import SlotEvent, SlotState, SlotTable

_TICK_MAX = 1 << 62  # nanoseconds of the year 2116: a larger tick is decayed memory
_INDEXED = (SlotState.CLAIMED, SlotState.STORED)


class Catalog:
    """Index and bookkeeping over one open arena. Everything that must outlive the process is in the arena."""

    def __init__(
        self, arena: Arena, log: OpenLog | None = None, *, eviction_batch: int = BATCH, step: Step = no_step
    ) -> None:
        """Take stock of the arena's records; what cannot be kept is freed and counted in ``log``."""
        count = arena.geometry.slot_count
        self.arena = arena
        self._step = step
        self._slots = SlotTable(count)
        self._states = self._slots.items
        self._groups: U16 = np.zeros(count, dtype=np.uint16)
        self._last_uses: U64 = np.zeros(count, dtype=np.uint64)
        self._pinned = np.zeros(count, dtype=np.uint8)
        self._holds = np.zeros(count, dtype=np.uint32)
        self._last_use_items = self._last_uses.data
        self._pinned_items = self._pinned.data
        self._hold_items = self._holds.data
        self._family = Family(count)
        self._index = PageIndex(count, arena.key)
        self._eviction = EvictionQueue(self._last_uses, self._is_evictable, self._candidates, eviction_batch)
        self._listeners: list[ChangeListener] = []
        self._tick = 0
        self._pinned_count = self._held_count = 0
        self._published_total = self._evicted_total = self._dropped_total = 0
        self._recover(log or OpenLog())

    def _recover(self, log: OpenLog) -> None:
        arena = self.arena
        slots, parents = recover_pages(arena, self._index, log)
        self._slots.load(slots)
        self._groups[slots] = arena.groups[slots]
        last_uses = arena.last_uses[slots]
        last_uses[last_uses >= _TICK_MAX] = 0
        self._last_uses[slots] = last_uses
        self._pinned[slots] = arena.pins[slots] != 0
        self._family.build(slots, parents)
        self._tick = int(last_uses.max(initial=0))
        self._pinned_count = int(np.count_nonzero(self._pinned))

    # Looking

    def lookup(self, key: bytes, group: int = 0) -> Slot | None:
        """The slot of a stored page, or None. 1 to 2 microseconds."""
        slot = self._index.find(key, group)
        return slot if slot is not None and self._states[slot] == SlotState.STORED else None

    def state(self, slot: Slot) -> SlotState:
        """Where a slot stands."""
        return SlotState(self._states[slot])

    def entry(self, slot: Slot) -> PageEntry:
        """What a stored or claimed page's record says.

        Raises:
            StoreError: the slot is neither stored nor claimed.
        """
        self._require(slot, "read", *_INDEXED)
        return self.arena.read_record(slot)

    def parent(self, slot: Slot) -> Slot | None:
        """The slot of a page's parent; None for a root, and for a claim whose parent has gone."""
        return self._family.parent(slot)

    def children(self, slot: Slot) -> Iterator[Slot]:
        """The slots of a page's children, stored and claimed."""
        return self._family.children(slot)

    def stored_slots(self) -> I64:
        """The slots of all stored pages, ascending."""
        return np.flatnonzero(self._slots.of_state(SlotState.STORED))

    def leaves(self) -> I64:
        """(n,) the slots of stored pages that have no child, stored or claimed; ascending. Some ms for a million."""
        return np.flatnonzero(self._slots.of_state(SlotState.STORED) & (self._family.first_children == NO_SLOT))

    def counters(self) -> Counters:
        """Counts by state and totals since opening."""
        counts = self._slots.counts
        return Counters(
            slot_count=len(self._states),
            free=counts[SlotState.FREE],
            claimed=counts[SlotState.CLAIMED],
            stored=counts[SlotState.STORED],
            waiting=counts[SlotState.WITHDRAWN] + counts[SlotState.LEAVING],
            pinned=self._pinned_count,
            held=self._held_count,
            published_total=self._published_total,
            evicted_total=self._evicted_total,
            dropped_total=self._dropped_total,
            stored_bytes=counts[SlotState.STORED] * self.arena.geometry.page.slot_bytes,
        )

    @property
    def tick(self) -> int:
        """The catalog's clock: the tick of the last use of any page. A page that is used now gets a later one."""
        return self._tick

    def used_after(self, tick: int) -> list[Slot]:
        """Stored pages whose last use is later than ``tick``; ascending. A few ms for a million slots."""
        is_wanted = self._slots.of_state(SlotState.STORED) & (self._last_uses > tick)
        return list(map(Slot, np.flatnonzero(is_wanted).tolist()))

    def restore_order(self, limit: int, group: int | None = None) -> list[Slot]:
        """Up to ``limit`` stored pages, parents before children, most recently used chains first.

        A chain is as recent as its most recently used page. Pages of one ``group``, or of all (None).
        Costs a partition of all stored pages (vectorised) and a fraction of a microsecond per page given.
        """
        is_wanted = self._slots.of_state(SlotState.STORED)
        if group is not None:
            is_wanted &= self._groups == group
        return restore_order(np.flatnonzero(is_wanted), self._last_uses, self._family.parents, limit)

    # Storing

    def claim(self, key: bytes, parent: bytes, group: int, flags: int, tokens: Sequence[int]) -> Claim:
        """Take a slot for a page that is about to be copied, evicting another page if need be.

        CLAIMED: the slot is the caller's until ``publish`` or ``discard``. ALREADY_STORED: nothing to do;
        the page counts as used just now. ALREADY_CLAIMED: somebody is at it. ORPHAN: its parent is neither
        root nor stored nor claimed in the same group. FULL: no page may be evicted.

        Raises:
            StoreError: a value does not fit the arena; nothing has changed.
        """
        token_bytes = self._validate(key, parent, group, flags, tokens)
        known = self._index.find(key, group)
        if known is not None:
            if self._states[known] != SlotState.STORED:
                return Claim(ClaimOutcome.ALREADY_CLAIMED, known)
            self.touch(known)
            return Claim(ClaimOutcome.ALREADY_STORED, known)
        ancestor = None if parent == ROOT_PARENT else self._index.find(parent, group)
        if ancestor is None and parent != ROOT_PARENT:
            return Claim(ClaimOutcome.ORPHAN, None)
        slot = self._take_free(ancestor)
        if slot is None:
            return Claim(ClaimOutcome.FULL, None)
        self._slots.move(slot, SlotEvent.CLAIM)
        self.arena.write_claim(slot, key, parent, group, flags, token_bytes)
        self._groups[slot] = group
        self._use(slot)
        self._step("claim: last use written")
        self._index.insert(slot, key, group)
        if ancestor is not None:
            self._family.link(slot, ancestor)
        return Claim(ClaimOutcome.CLAIMED, slot)

    def publish(self, slot: Slot, checksums: Sequence[bytes]) -> PublishOutcome:
        """Make a claimed page visible; its bytes must lie in the slot. ``checksums``: 16 bytes per rank.

        ORPHAN: its parent has not been published, or has gone. WITHDRAWN: the catalog was cleared after
        the claim. In both cases the slot is free again.

        Raises:
            StoreError: the slot is not claimed, or the checksums do not fit; nothing has changed.
        """
        self._require(slot, "publish", SlotState.CLAIMED, SlotState.WITHDRAWN)
        page = self.arena.geometry.page
        if len(checksums) != page.ranks or any(len(sum_) != CHECKSUM_BYTES for sum_ in checksums):
            problem = f"{len(checksums)} checksums, wanted {page.ranks} of {CHECKSUM_BYTES} bytes"
            raise StoreError("publish", f"slot {slot}", problem)
        if self._states[slot] == SlotState.WITHDRAWN:
            self._give_back(slot)
            return PublishOutcome.WITHDRAWN
        if not self._has_stored_parent(slot):
            self._give_back(slot)
            return PublishOutcome.ORPHAN
        self.arena.commit_record(slot, checksums)
        self._slots.move(slot, SlotEvent.PUBLISH)
        self._published_total += 1
        key, group = self.arena.key(slot), int(self._groups[slot])
        for listener in self._listeners:
            listener.page_added(key, group)
        self._eviction.offer(slot)
        return PublishOutcome.PUBLISHED

    def discard(self, slot: Slot) -> None:
        """Give a claim back: the fence moved, or the copier died.

        Raises:
            StoreError: the slot is not claimed.
        """
        self._require(slot, "discard", SlotState.CLAIMED, SlotState.WITHDRAWN)
        self._give_back(slot)

    def touch(self, slot: Slot) -> None:
        """A stored page was used just now.

        Raises:
            StoreError: the slot is not stored.
        """
        self._require(slot, "touch", SlotState.STORED)
        self._use(slot)

    # Removing

    def drop(self, slot: Slot) -> int:
        """A stored page proved bad: it and its descendants leave, pinned or not. Returns how many left.

        The page itself goes first, so that a kill on the way never leaves it. Claimed children stay
        claimed; they can be published only if this page is stored again by then.

        Raises:
            StoreError: the slot is not stored.
        """
        self._require(slot, "drop", SlotState.STORED)
        self._offer_parent_after(slot, self._family.unlink)
        waiting, dropped = [slot], 0
        while waiting:
            bad = waiting.pop()
            waiting.extend(child for child in self._family.children(bad) if self._is_stored(child))
            self._remove(bad)
            dropped += 1
        self._dropped_total += dropped
        return dropped

    def evict(self, slot: Slot) -> None:
        """A stored page leaves at an operator's wish.

        Raises:
            StoreError: the slot is not stored, or invariant 4 keeps the page; nothing has changed.
        """
        self._require(slot, "evict", SlotState.STORED)
        if not self._is_evictable(slot):
            why = "pinned" if self._pinned_items[slot] else "held" if self._hold_items[slot] else "a parent"
            raise StoreError("evict", f"slot {slot}", f"it is {why}")
        self._evict(slot)

    def evict_oldest(self) -> Slot | None:
        """The least recently used page that may leave does. Returns its slot, or None where no page may leave."""
        victim = self._eviction.pop()
        if victim is not None:
            self._evict(victim)
        return victim

    def clear(self) -> int:
        """Every page leaves at once, even under a kill; claims are withdrawn. Returns how many left.

        Slots that copiers still write (claimed) or read (held) are reused only when they let go of them.
        """
        self.arena.clear_all()
        self._index.clear()
        self._family.clear()
        self._eviction.reset()
        self._pinned.fill(0)
        self._pinned_count = 0
        claimed = np.flatnonzero(self._slots.of_state(SlotState.CLAIMED))
        is_stored = self._slots.of_state(SlotState.STORED)
        held = np.flatnonzero(is_stored & (self._holds > 0))
        unheld = np.flatnonzero(is_stored & (self._holds == 0))
        self._slots.move_all(claimed, SlotState.CLAIMED, SlotEvent.WITHDRAW)
        self._slots.move_all(held, SlotState.STORED, SlotEvent.REMOVE_HELD)
        self._slots.move_all(unheld, SlotState.STORED, SlotEvent.REMOVE)
        dropped = len(held) + len(unheld)
        self._dropped_total += dropped
        for listener in self._listeners:
            listener.pages_cleared()
        return dropped

    # Keeping

    def pin(self, slot: Slot) -> None:
        """Never evict this page (an operator's wish, kept across restarts). Pinning twice is pinning once.

        Raises:
            StoreError: the slot is not stored.
        """
        self._set_pinned(slot, True)

    def unpin(self, slot: Slot) -> None:
        """Take a pin back; nothing happens where there is none.

        Raises:
            StoreError: the slot is not stored.
        """
        self._set_pinned(slot, False)

    def hold(self, slot: Slot) -> None:
        """Keep a page's bytes in place while they are read. Holds count, and end with the process.

        Raises:
            StoreError: the slot is not stored.
        """
        self._require(slot, "hold", SlotState.STORED)
        self._hold_items[slot] += 1
        self._held_count += self._hold_items[slot] == 1

    def release(self, slot: Slot) -> None:
        """Take back one hold. A page that was dropped meanwhile frees its slot with the last one.

        Raises:
            StoreError: the slot is not held.
        """
        if self._hold_items[slot] == 0:
            raise StoreError("release", f"slot {slot}", "it is not held")
        self._hold_items[slot] -= 1
        if self._hold_items[slot]:
            return
        self._held_count -= 1
        if self._states[slot] == SlotState.LEAVING:
            self._slots.move(slot, SlotEvent.LAST_RELEASE)
        else:
            self._eviction.offer(slot)

    def attach(self, listener: ChangeListener) -> None:
        """Tell ``listener`` of every page there is, and from now on of every change."""
        stored = np.flatnonzero(self._slots.of_state(SlotState.STORED))
        listener.pages_added(self.arena.keys[stored], self._groups[stored])
        self._listeners.append(listener)

    def detach(self, listener: ChangeListener) -> None:
        """Tell ``listener`` no more; nothing happens where it was told nothing."""
        self._listeners = [other for other in self._listeners if other is not listener]

    # What the above is made of

    def _is_stored(self, slot: int) -> bool:
        return self._states[slot] == SlotState.STORED

    def _require(self, slot: Slot, op: str, *wanted: SlotState) -> None:
        if not 0 <= slot < len(self._states):
            raise StoreError(op, f"slot {slot}", f"there are {len(self._states)} slots")
        if self._states[slot] not in wanted:
            names = " or ".join(one.name.lower() for one in wanted)
            raise StoreError(op, f"slot {slot}", f"it is {self.state(slot).name.lower()}, wanted {names}")

    def _validate(self, key: bytes, parent: bytes, group: int, flags: int, tokens: Sequence[int]) -> bytes:
        """The tokens as the record holds them, once everything about the page has been checked."""
        limit = self.arena.geometry.page.page_tokens
        if len(key) != KEY_BYTES or len(parent) != KEY_BYTES or key == ROOT_PARENT:
            problem = f"key of {len(key)} and parent of {len(parent)} bytes, wanted {KEY_BYTES}, key not zero"
        elif not (0 <= group < 1 << 16 and 0 <= flags < 1 << 16):
            problem = f"group {group}, flags {flags:#x}: wanted 16 bits each"
        elif len(tokens) > limit:
            problem = f"{len(tokens)} tokens, at most {limit} fit a page"
        else:
            try:
                return array("I", tokens).tobytes()
            except (OverflowError, TypeError, ValueError):
                problem = "a token is not an unsigned 32-bit number"
        raise StoreError("claim", f"page {key.hex()[:16]}", problem)

    def _use(self, slot: Slot) -> None:
        # The wall clock, so that a use can be told as a time, even after a restart; never back, so that it orders uses.
        self._tick = max(self._tick + 1, time.time_ns())
        self._last_use_items[slot] = self._tick
        self.arena.set_last_use(slot, self._tick)

    def _take_free(self, ancestor: Slot | None) -> Slot | None:
        """A free slot, made free by eviction if need be; never by evicting ``ancestor``."""
        if self._slots.next_free() is None:
            if ancestor is not None:
                self._hold_items[ancestor] += 1
            victim = self.evict_oldest()
            if ancestor is not None:
                self._hold_items[ancestor] -= 1
                # The search may have passed it over; without a child it is a candidate again.
                self._eviction.offer(ancestor)
            if victim is None:
                return None
        return self._slots.next_free()

    def _evict(self, slot: Slot) -> None:
        self._offer_parent_after(slot, self._remove)
        self._evicted_total += 1

    def _is_evictable(self, slot: int) -> bool:
        return (
            self._states[slot] == SlotState.STORED
            and not self._family.has_children(slot)
            and not self._pinned_items[slot]
            and not self._hold_items[slot]
        )

    def _candidates(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        is_candidate = self._slots.of_state(SlotState.STORED) & (self._family.first_children == NO_SLOT)
        is_candidate &= (self._pinned == 0) & (self._holds == 0)
        return np.flatnonzero(is_candidate)

    def _offer_parent_after(self, slot: Slot, removal: Callable[[Slot], None]) -> None:
        parent = self._family.parent(slot)
        removal(slot)
        if parent is not None:
            self._eviction.offer(parent)

    def _remove(self, slot: Slot) -> None:
        """A stored page becomes invisible, its record first."""
        key, group = self.arena.key(slot), int(self._groups[slot])
        self.arena.clear_record(slot)
        self._index.remove(slot)
        self._part_with_relatives(slot)
        self._leave(slot)
        for listener in self._listeners:
            listener.page_removed(key, group)

    def _leave(self, slot: int) -> None:
        """A stored slot that is out of the index and the arena becomes free, or waits for its holders."""
        if self._pinned_items[slot]:
            self._pinned_items[slot] = 0
            self._pinned_count -= 1
        self._slots.move(slot, SlotEvent.REMOVE_HELD if self._hold_items[slot] else SlotEvent.REMOVE)

    def _give_back(self, slot: Slot) -> None:
        """A claimed or withdrawn slot becomes free; its record was never committed."""
        if self._states[slot] == SlotState.CLAIMED:
            self._index.remove(slot)
            self._offer_parent_after(slot, self._part_with_relatives)
        self._slots.move(slot, SlotEvent.GIVE_BACK)
        for listener in self._listeners:
            listener.claim_given_back(self.arena.key(slot), int(self._groups[slot]))

    def _part_with_relatives(self, slot: Slot) -> None:
        # Children left here are claimed ones, or stored ones that ``drop`` removes next. They must not
        # point at a slot that another page will take.
        for child in self._family.children(slot):
            self._family.unlink(child)
        self._family.unlink(slot)

    def _has_stored_parent(self, slot: Slot) -> bool:
        """Whether a claimed page may be published. A parent that left and came back counts again."""
        parent = self._family.parent(slot)
        if parent is None:
            parent_key = self.arena.parent(slot)
            if parent_key == ROOT_PARENT:
                return True
            parent = self._index.find(parent_key, int(self._groups[slot]))
            if parent is None:
                return False
            self._family.link(slot, parent)
        return self._is_stored(parent)

    def _set_pinned(self, slot: Slot, pinned: bool) -> None:
        self._require(slot, "pin" if pinned else "unpin", SlotState.STORED)
        self._pinned_count += int(pinned) - self._pinned_items[slot]
        self._pinned_items[slot] = pinned
        self.arena.set_pinned(slot, pinned)
        self._step("pin: written")
        if not pinned:
            self._eviction.offer(slot)
