"""Records that were read from the journal and wait for a copier: newest conversations first, parents before children.

While the copiers keep up, nothing waits here and the order is that of the journal. Under backlog what was committed
last matters most: it belongs to who is talking now, while older pages are the likelier ones to be overwritten anyway.

    chain     records that hang together by their parents, in the order in which they came: parents before children
    take      from the chain that was added to last, its oldest record first
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from rekindle_plugins.contract.journal import Record

MAX_RECORDS = 4096
"""When it is full, its oldest chains are dropped for newer ones. An announcer waits for what is in here, too."""
MAX_TOKENS = 1 << 20
"""Of all records: some 40 MiB. Pages of more than 256 tokens have room for fewer records."""

PageKey = tuple[int, bytes]


class Backlog:
    """Pure: no clock, no I/O."""

    def __init__(self, page_tokens: int = 1) -> None:
        """`page_tokens`: the most that a record has."""
        self._page_tokens = page_tokens
        self._chains: dict[int, deque[Record]] = {}
        """By number, the one that was added to last at the end."""
        self._chain_of: dict[PageKey, int] = {}
        self._waiting: Counter[PageKey] = Counter()
        """How often a page waits: it may have been announced again."""
        self._next = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def capacity(self) -> int:
        """Records."""
        return max(1, min(MAX_RECORDS, MAX_TOKENS // self._page_tokens))

    @property
    def room(self) -> int:
        return max(0, self.capacity - self._count)

    @property
    def oldest_seen_at(self) -> float | None:
        """When the record that waits longest was first seen. A chain's first one is its oldest."""
        return min((chain[0].seen_at for chain in self._chains.values()), default=None)

    def add(self, record: Record) -> None:
        """Behind its parent where that waits too, and its whole chain before all others."""
        key = (record.group, record.key)
        number = self._chain_of.get(key, self._chain_of.get((record.group, record.parent)))
        if number is None:
            number, self._next = self._next, self._next + 1
        chain = self._chains.pop(number, None) or deque()
        chain.append(record)
        self._chains[number] = chain
        self._chain_of[key] = number
        self._waiting[key] += 1
        self._count += 1

    def take(self, limit: int) -> list[Record]:
        """Removes and returns up to `limit` records, in the order in which they should be copied."""
        taken: list[Record] = []
        while self._chains and len(taken) < limit:
            number, chain = next(reversed(self._chains.items()))
            record = chain.popleft()
            taken.append(record)
            self._forget(record)
            if not chain:
                del self._chains[number]
        return taken

    def drop(self, is_stale: Callable[[Record], bool]) -> int:
        """Forgets records whose pages were handed out again; returns how many."""
        kept = [record for chain in self._chains.values() for record in chain if not is_stale(record)]
        dropped = self._count - len(kept)
        if dropped:
            self.clear()
            for record in kept:
                self.add(record)
        return dropped

    def drop_oldest(self, count: int) -> int:
        """Forgets whole chains, those that were added to longest ago, until there is room for `count` records.

        The last chain stays: its records go in the order of the journal anyway. Returns how many were forgotten.
        """
        before = self._count
        while self.room < count and len(self._chains) > 1:
            for record in self._chains.pop(next(iter(self._chains))):
                self._forget(record)
        return before - self._count

    def _forget(self, record: Record) -> None:
        """It has left its chain."""
        key = (record.group, record.key)
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._waiting[key], self._chain_of[key]
        self._count -= 1

    def clear(self) -> None:
        self._chains.clear()
        self._chain_of.clear()
        self._waiting.clear()
        self._count = 0
