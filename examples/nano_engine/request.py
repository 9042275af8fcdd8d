"""One request's life: its tokens, its pages, how far its KV has come.

    WAITING ─► RUNNING ─► FINISHED
       │  ▲______│ ▲          ▲       preempted: back to WAITING, its KV recomputed later
       └─► LOADING ┘──────────┘       a plugin fills its first pages; an abort waits for the load's end

Created by the server's thread, then owned by the engine thread.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from nano_engine.blocks import ROOT_PARENT, PageId, page_key


class Status(enum.Enum):
    WAITING = "waiting"
    LOADING = "loading"
    RUNNING = "running"
    FINISHED = "finished"


class Finish(enum.Enum):
    """Why a request ended. The values are OpenAI's `finish_reason`."""

    LENGTH = "length"
    STOP = "stop"
    ABORT = "abort"


class RequestError(ValueError):
    """A request that can never be served; the message is meant for the client."""


@dataclass(eq=False)
class Request:
    """`tokens` is the prompt and everything generated; KV exists for the first `computed` of them."""

    request_id: str
    tokens: list[int]
    max_tokens: int
    stop_token_ids: frozenset[int] = frozenset()
    cache_salt: str = ""

    arrival: int = 0
    status: Status = Status.WAITING
    pages: list[PageId] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    computed: int = 0
    committed_pages: int = 0
    """The first pages of `pages` that need no registering: done already, or they came from the cache."""
    loading_count: int = 0
    """While LOADING: how many of the last pages of `pages` are being filled."""
    drop_load: bool = False
    """While LOADING: what arrives is no longer wanted (abort, cache reset)."""
    abort_wanted: bool = False
    cached_tokens: int | None = None
    """Prompt tokens that needed no computing at the first admission; None before it."""
    prompt_count: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_count = len(self.tokens)

    @property
    def uncomputed(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def generated_count(self) -> int:
        return len(self.tokens) - self.prompt_count

    def page_slice(self, index: int, page_tokens: int) -> Sequence[int]:
        return self.tokens[index * page_tokens : (index + 1) * page_tokens]

    def parent_of(self, index: int) -> bytes:
        return self.keys[index - 1] if index else ROOT_PARENT

    def extend_keys(self, page_tokens: int) -> None:
        """Compute the keys of all pages that `tokens` fills by now."""
        for index in range(len(self.keys), len(self.tokens) // page_tokens):
            self.keys.append(page_key(self.parent_of(index), self.page_slice(index, page_tokens), self.cache_salt))

    def finish_after(self, token: int) -> Finish | None:
        """Whether `token`, just appended, is the last."""
        if token in self.stop_token_ids:
            return Finish.STOP
        if self.generated_count >= self.max_tokens:
            return Finish.LENGTH
        return None
