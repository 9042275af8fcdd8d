"""Which block holds which page of which request, put together from the engine's deltas.

A request's blocks and tokens come as what is new since the step before; with chunked prefill and the overlap scheduler
a step may bring neither. A block's epoch is taken when it enters the table, right after the fence was raised: when a
page is committed the block may be somebody else's, and then its epoch has moved on.

When is a page complete? The GPU is not synchronised at any callback. But a token that the host knows was sampled from
logits that depend on every layer's attention over all positions before it, on every rank (each layer's output goes
through the ranks' all-reduce), and all of a rank's work is in the order of one stream. So when a request has n tokens
of which at least one was generated, the KV of its first n - 1 is in place on all ranks. Nothing else is taken as
proof: a prompt's pages wait for the first token, which the scheduler shows with a later step (`RequestData.new_tokens`)
or when the request ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rekindle_plugins.tensorrt_llm.keys import page_key

BAD_PAGE = -1
"""The engine's BAD_PAGE_INDEX: this page of the request lies nowhere (any more)."""


@dataclass
class RequestTable:
    """One request, from its first step to its end."""

    root: bytes | None
    """None: its pages have no keys. The table is kept for the fence's sake."""
    request_id: str
    prompt_count: int
    tokens: list[int]
    pages: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    committed: int = 0
    """Pages that were committed, or can never be."""
    marked: int = 0
    """Pages whose keys were counted as computed (`holds`)."""

    def add_pages(self, page_ids: Sequence[int], epoch_of: Callable[[int], int]) -> None:
        """Blocks, in order of position. A bad index keeps its place."""
        self.pages.extend(page_ids)
        self.epochs.extend(epoch_of(page_id) if page_id > BAD_PAGE else 0 for page_id in page_ids)

    def take_all_tokens(self, tokens: Sequence[int]) -> bool:
        """At a request's end: all of its tokens. False when they are not those that came as deltas."""
        if list(tokens[: len(self.tokens)]) != self.tokens:
            return False
        self.tokens.extend(tokens[len(self.tokens) :])
        return True

    def complete_pages(self, page_tokens: int) -> int:
        """How many pages certainly have their KV on all ranks. See the module's text."""
        if len(self.tokens) <= self.prompt_count:
            return 0
        return min((len(self.tokens) - 1) // page_tokens, len(self.pages))

    def key(self, index: int, page_tokens: int) -> bytes:
        """The key of page `index`, whose tokens must be known. The root must be, too."""
        assert self.root is not None
        while len(self.keys) <= index:
            start = len(self.keys) * page_tokens
            parent = self.keys[-1] if self.keys else self.root
            self.keys.append(page_key(parent, self.tokens[start : start + page_tokens]))
        return self.keys[index]


class Owners:
    """How many requests hold each block: the engine shares blocks with a common prefix."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, page_ids: Iterable[int]) -> None:
        self._counts.update(page_id for page_id in page_ids if page_id > BAD_PAGE)

    def drop(self, page_ids: Iterable[int]) -> list[int]:
        """Gives one hold on each back. Returns the blocks that nobody holds any more."""
        free = []
        for page_id in page_ids:
            if page_id <= BAD_PAGE:
                continue
            self._counts[page_id] -= 1
            if self._counts[page_id] <= 0:
                del self._counts[page_id]
                free.append(page_id)
        return free
