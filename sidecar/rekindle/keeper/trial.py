"""One start of an engine, as far as restored pages are under suspicion: what it may have, and how it turned out.

Runs on the keeper's event loop. The rules are `rekindle.lifecycle.suspicion`'s; here they meet the store. Without a
suspicion nothing of this costs anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence

from rekindle_plugins.contract.journal import Heartbeat

from rekindle.keeper.planning import planned_pages, unsuspected_pages
from rekindle.keeper.stores import OpenStore
from rekindle.keeper.suspects import Suspects
from rekindle.keeper.transfers import FillRow
from rekindle.lifecycle.suspicion import Life, Record, Trust, after_death
from rekindle.store.page import PageEntry
from rekindle.store.presence import PresenceFilter
from rekindle.store.slot_table import SlotState

log = logging.getLogger("rekindle.recovery")

DROPPED_PER_TURN = 256
"""Pages dropped between two turns of the event loop."""
WITHHELD = "suspect"
"""The reason that a fill is answered with."""


class Trial:
    """Begins when a store was acquired, ends with `close`, before the store is released."""

    def __init__(self, instance: str, store: OpenStore, suspects: Suspects) -> None:
        self._instance = instance
        self._store = store
        self._suspects = suspects
        self._began_tick = store.catalog.tick
        self._record = suspects.record(store.identity.digest)
        self.was_given_pages = False
        self._is_proved = False
        self._is_closed = False
        self._presence: PresenceFilter | None = None
        if self._record.trust is not Trust.EVERYTHING:
            log.warning("event=restore_suspected instance=%s text=%r", instance, self._record.text())
            # Closed: nobody was told to it. Should the start prove healthy, the store fills it.
            self._presence = PresenceFilter(store.catalog.counters().slot_count)

    @property
    def text(self) -> str:
        """What the recovery report says of it; empty where nothing is suspected."""
        return self._record.text()

    @property
    def is_over(self) -> bool:
        """Nobody is suspected (any more)."""
        return not self._record.deaths or self._is_proved

    @property
    def presence_fd(self) -> int:
        """What the engine may ask by: the store's own filter, or one that says no."""
        return (self._presence or self._store.presence).fd

    @property
    def stored_pages(self) -> int:
        """What the engine is told that there is."""
        return 0 if self._record.trust is Trust.NOTHING else self._store.catalog.counters().stored

    def plan(self, max_pages: int) -> Iterator[PageEntry]:
        """The pages that this start may have, the best first."""
        catalog, record = self._store.catalog, self._record
        pages: Iterator[PageEntry] = iter(())
        if record.trust is Trust.EVERYTHING:
            pages = planned_pages(catalog, max_pages)
        elif record.trust is Trust.NO_SUSPECTS:
            pages = unsuspected_pages(catalog, max_pages, record.since_tick)
        for page in pages:
            self.was_given_pages = True
            yield page

    def life(self, is_restoring: bool, beat: Heartbeat) -> Life:
        """How the engine stands, by its heartbeat."""
        return Life(self.was_given_pages, is_restoring or beat.has_work, beat.steps_finished)

    def refused(self, rows: Sequence[FillRow]) -> list[FillRow]:
        """Those of a fill's rows that are withheld: the plan leaves them out, and the presence filter denies them."""
        catalog, record = self._store.catalog, self._record
        if record.trust is Trust.EVERYTHING:
            return []
        if record.trust is Trust.NOTHING:
            return list(rows)
        found = [(row, catalog.lookup(row.key, row.group)) for row in rows]
        return [row for row, slot in found if slot is not None and catalog.entry(slot).last_use > record.since_tick]

    async def prove(self) -> int:
        """The start has shown itself healthy: the suspicion is over, and what it did without is dropped.

        Returns how many pages were; the engine should then announce its own, some of which take their place.
        """
        self._is_proved = True
        dropped = 0
        if self._record.trust is not Trust.EVERYTHING:
            catalog = self._store.catalog
            for count, slot in enumerate(catalog.used_after(self._record.since_tick)):
                if count % DROPPED_PER_TURN == 0:
                    await asyncio.sleep(0)
                    if self._is_closed:
                        return dropped
                if catalog.state(slot) is SlotState.STORED:  # else it has left, with its parent perhaps
                    dropped += catalog.drop(slot)
        self._record = Record()
        self._suspects.put(self._store.identity.digest, self._record)
        if self._presence is not None:
            self._store.catalog.attach(self._presence)
        log.info("event=restore_cleared instance=%s pages_dropped=%d", self._instance, dropped)
        return dropped

    def ended(self, life: Life) -> None:
        """The engine died."""
        record = after_death(self._record, life, self._began_tick)
        if record.deaths > self._record.deaths:
            log.warning("event=died_after_restore instance=%s in_a_row=%d", self._instance, record.deaths)
        self._record = record
        self._suspects.put(self._store.identity.digest, record)

    def close(self) -> None:
        self._is_closed = True
        if self._presence is not None:
            self._store.catalog.detach(self._presence)
            self._presence.close()
            self._presence = None
