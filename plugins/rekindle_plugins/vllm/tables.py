"""Which engine page holds which page of which request, and under which epoch it was given to it.

The epoch is taken when the page enters a request's table, right after the fence was raised. By the time the page is
complete it may already belong to somebody else (asynchronous scheduling, sliding windows, preemption): then its epoch
has moved on, and the commit is refused. Reading the epoch at commit time instead would announce a stranger's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

NULL_BLOCK = 0
"""vLLM's placeholder where a request has no page (any more): it is never allocated, and nobody reads it."""


@dataclass
class RequestTable:
    """One request's pages, per group, and how many of them were committed or found committed."""

    first_step: int
    """The first step that runs with this table. Until it is done, pages that were found in the cache may still have to
    be written: their finder gets them as soon as they are given to another request, not when they are computed."""
    pages: list[list[int]]
    epochs: list[list[int]]
    committed: list[int] = field(default_factory=list)

    @staticmethod
    def empty(group_count: int, first_step: int) -> RequestTable:
        pages: list[list[int]] = [[] for _ in range(group_count)]
        return RequestTable(first_step, pages, [[] for _ in range(group_count)], [0] * group_count)

    def append(self, group: int, page_ids: Sequence[int], epoch_of: Callable[[int], int]) -> None:
        self.pages[group].extend(page_ids)
        self.epochs[group].extend(map(epoch_of, page_ids))
