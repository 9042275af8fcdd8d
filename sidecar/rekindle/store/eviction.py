"""Which page leaves next: exactly the least recently used leaf, found a batch at a time.

Runs in the keeper, on its one thread; only the catalog uses it. A scan of all slots (vectorised, some ten
milliseconds for a million) fills a heap with the BATCH least recently used candidates; the largest tick
among them is the horizon. Whatever becomes evictable later is offered, and taken if it is not younger than
the horizon. So the heap's least entry is the store's, and a scan is due only when the heap is empty.

Entries go stale (a page is touched, held, gets a child); that is found out when they are popped.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from rekindle.store.page import I64, U64, Slot

BATCH = 8192
_HEAP_LIMIT = 8 * BATCH


class EvictionQueue:
    """Picks victims. ``is_evictable`` judges one slot, ``scan`` gives all candidates."""

    def __init__(
        self, last_uses: U64, is_evictable: Callable[[int], bool], scan: Callable[[], I64], batch: int = BATCH
    ) -> None:
        self._last_uses = last_uses
        self._last_use_items = last_uses.data
        self._is_evictable = is_evictable
        self._scan = scan
        self._batch = batch
        self._heap: list[tuple[int, int]] = []
        self._horizon = 0
        self._is_complete = False  # every candidate is in the heap, whatever its age

    def offer(self, slot: int) -> None:
        """``slot`` has become evictable, or may have."""
        tick = self._last_use_items[slot]
        if self._is_complete or tick <= self._horizon:
            heapq.heappush(self._heap, (tick, slot))
            if len(self._heap) > max(_HEAP_LIMIT, 8 * self._batch):
                self.reset()

    def pop(self) -> Slot | None:
        """The least recently used evictable slot, or None where nothing may be evicted."""
        while True:
            while self._heap:
                tick, slot = heapq.heappop(self._heap)
                if not self._is_evictable(slot):
                    continue  # it is offered again when that changes
                if self._last_use_items[slot] == tick:
                    return Slot(slot)
                self.offer(slot)
            if self._is_complete:
                return None
            self._fill()

    def reset(self) -> None:
        """Forget everything; the next ``pop`` scans."""
        self._heap = []
        self._horizon = 0
        self._is_complete = False

    def _fill(self) -> None:
        candidates = self._scan()
        ticks = self._last_uses[candidates]
        self._is_complete = len(candidates) <= self._batch
        if not self._is_complete:
            least = np.argpartition(ticks, self._batch)[: self._batch]
            candidates, ticks = candidates[least], ticks[least]
            self._horizon = int(ticks.max())
        self._heap = list(zip(ticks.tolist(), candidates.tolist(), strict=True))
        heapq.heapify(self._heap)
