"""Eager restore: before the engine serves, put stored pages into free engine pages and let it find them as its own.

Runs on the engine's scheduling thread at start-up, bounded by the restore budget. Pages whose result is not there when
the budget ends stay out of the engine's hands (quarantined) until it is; `EagerRestore.settle_late` takes them in.

    plan → reserve free pages → fill → verified by the copiers → register (parent first) → release as evictable
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rekindle_plugins.client.leader import FillPage, FillResult, Leader, PlannedPage
from rekindle_plugins.contract.journal import ROOT

FILL_PAGES = 256
MAX_FILLS_IN_FLIGHT = 4


class EagerTarget(Protocol):
    """What an engine must offer: its free pages, and a way into its prefix cache."""

    def free_pages(self) -> int:
        """How many pages could be reserved now."""

    def reserve(self, count: int) -> Sequence[int]:
        """Takes free pages out of the engine's hands. The caller raises their epochs."""

    def register(self, page_id: int, page: PlannedPage) -> bool:
        """Makes a verified page findable under its key. False when the engine has that key already."""

    def release(self, page_ids: Sequence[int]) -> None:
        """Gives reserved pages back; registered ones become evictable, with their content, the first one first."""


@dataclass
class EagerRestore:
    """The state of one eager restore, and its outcome."""

    leader: Leader
    target: EagerTarget
    restored: int = 0
    tokens: int = 0
    planned: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    _in_flight: dict[int, dict[int, PlannedPage]] = field(default_factory=dict)
    _done: list[int] = field(default_factory=list)
    _known: set[tuple[int, bytes]] = field(default_factory=set)

    @property
    def pending(self) -> bool:
        return bool(self._in_flight)

    def owns(self, result: FillResult) -> bool:
        return result.fill_id in self._in_flight

    def run(self, budget_s: float, reserve_pages: int = 0) -> None:
        """Restores as much as fits into the free pages (less `reserve_pages`) and the budget."""
        start = time.monotonic()
        deadline = start + budget_s
        room = self.target.free_pages() - reserve_pages
        plan = self.leader.plan(room, budget_s) if room > 0 else []
        self.planned = len(plan)
        position = 0
        while (position < len(plan) or self._in_flight) and time.monotonic() < deadline:
            while position < len(plan) and len(self._in_flight) < MAX_FILLS_IN_FLIGHT:
                self._begin(plan[position : position + FILL_PAGES])
                position += FILL_PAGES
            for result in self.leader.fills.wait(deadline - time.monotonic()):
                self.settle(result)
        for page in plan[position:]:
            self._reject("budget", page)
        self._release()
        self.seconds = time.monotonic() - start

    def _begin(self, part: Sequence[PlannedPage]) -> None:
        page_ids = self.target.reserve(len(part))
        self.leader.raise_pages(page_ids)
        fills = [
            FillPage(page_id, self.leader.epoch(page_id), page.group, page.key)
            for page_id, page in zip(page_ids, part, strict=True)
        ]
        fill_id = self.leader.fill(fills)
        self._in_flight[fill_id] = dict(zip(page_ids, part, strict=True))

    def settle(self, result: FillResult) -> None:
        """Registers what arrived. The pages go back to the engine with the next `_release`."""
        pages = self._in_flight.pop(result.fill_id)
        arrived = {fill.page_id for fill in result.ok}
        for _, reason in result.failed:
            self.rejected[reason] = self.rejected.get(reason, 0) + 1
        for page_id, page in pages.items():
            if page_id not in arrived:
                continue
            if page.parent != ROOT and (page.group, page.parent) not in self._known:
                self._reject("parent-missing", page)
            elif self.target.register(page_id, page):
                self._known.add((page.group, page.key))
                self.leader.adopt(page_id, page.group, page.key, page.parent, page.tokens)
                self.restored += 1
                self.tokens += len(page.tokens)
            else:
                self._reject("engine-has-it", page)
                self._known.add((page.group, page.key))
        self._done.extend(pages)

    def settle_late(self, result: FillResult) -> None:
        """A result that came after the budget had ended: the quarantine of these pages is over."""
        self.settle(result)
        self._release()

    def _release(self) -> None:
        """Children before parents, the worst sessions before the best: what goes back first is evicted first."""
        self.target.release(self._done[::-1])
        self._done = []

    def _reject(self, reason: str, _: PlannedPage) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


def restore_eagerly(leader: Leader, target: EagerTarget, budget_s: float, reserve_pages: int = 0) -> EagerRestore:
    """Runs one eager restore and reports it to the sidecar."""
    restore = EagerRestore(leader, target)
    restore.run(budget_s, reserve_pages)
    leader.report(restore.restored, restore.tokens, restore.rejected, restore.seconds)
    return restore
