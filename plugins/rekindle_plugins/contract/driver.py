"""The driver: the smallest real use of an engine with its shim in it, written once by a plugin's author.

`rekindle plugin test` judges a plugin through it and knows nothing else of the engine. It runs the driver in a process
of its own, which it kills at any instant, so a driver keeps nothing outside that process, and stops nothing at its end.

    Driver()  ─▶  start(change)  ─▶  submit … step … answer … reset_cache …  ─▶  close()          (or SIGKILL, any time)

What the kit relies on:

- The engine is built as in production: its shim is there from the start, and finds the sidecar by the environment
  (REKINDLE_RUN_DIR). The `Leader` and the `Rank` live in the driver's process, where the kit can watch them.
- The cache is small (16 to 64 pages) and a step computes little (a page or two of prompt), so that pages are reused and
  prompts take several steps. A sequence may be at least 6 pages long.
- Greedy and deterministic: one prompt, submitted alone to a fresh engine, gives the same tokens and the same KV bytes
  in every process. Weights that are drawn from a seed will do.
- Every call comes from one thread, and returns in seconds whatever the sidecar does. What a call raises ends the run,
  and is reported with its traceback. Standard output and error go into a log.

Stdlib only, like all of the contract: a driver may import its engine when it starts, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

WEIGHTS_FIELD = "model_files"
"""The identity's field that every driver must be able to change: other weights of the same shape."""


@dataclass(frozen=True)
class EngineFacts:
    """The sizes of the engine that a driver has started. The kit compares them with what the shim tells the sidecar."""

    page_tokens: int
    """Tokens of a full page, of the first KV-cache group."""
    page_count: int
    """Pages that the shim declares, those included that the engine keeps for itself."""
    usable_pages: int
    """Pages that requests can have, all together."""
    context_tokens: int
    """The longest sequence, prompt and answer."""
    vocabulary: int
    """Prompts are drawn from the token ids 0 … vocabulary - 1; none of them ends an answer."""


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    tokens: tuple[int, ...]
    """The generated ones, exactly `max_tokens` of them."""
    cached_tokens: int
    """Tokens of the prompt that were not computed: found in the engine's cache, or loaded into it."""


class Driver(Protocol):
    """One engine start. The kit makes an object for each, without arguments, and calls `start` first."""

    changes: Sequence[str]
    """Fields of the identity that `start` can change, one at a time. `model_files` is always among them."""

    def start(self, change: str) -> EngineFacts:
        """Builds the engine with its shim and returns when it could serve; an eager restore is over by then.

        `change` is "" or a name from `changes`: then it starts as an engine that differs in that one field, as far as
        its answers or its KV bytes go, and is the same in all others. Two starts with one change are the same engine.
        """

    def submit(self, request_id: str, tokens: Sequence[int], max_tokens: int) -> None:
        """Queues a request: `max_tokens` greedy tokens, and no earlier end. Computes nothing yet."""

    def step(self) -> bool:
        """At most one step of the engine's own loop, with all that it calls of the shim. False: no request is left.

        Where requests wait (for a load), it may return without having computed anything; it does not wait for long. An
        engine with a loop on a thread of its own waits here until that loop has gone round once.
        """

    def answer(self, request_id: str) -> Answer:
        """Of a request that is finished. Asked once."""

    def reset_cache(self) -> None:
        """Drops the engine's prefix cache by the engine's own operation for it. Asked only of plugins that declare
        `Capability.CACHE_RESET`, and only while no request is unfinished."""

    def close(self) -> None:
        """Stops the engine in order: the shim is finalized."""
