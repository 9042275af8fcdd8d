"""What a server sets for every request that is silent about it: no answer over HTTP tells it.

The engine's shim tells it when it attaches (`client.LeaderConfig.serving`), as JSON:

    defaults            by a request's field, what holds where a request does not name it
    max_tokens_cap      no answer is longer, whatever its request says; null for none
    context_tokens      of a prompt and its answer together
    logits_processors   whether the server has some of its own, which may count what was generated
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ServerSettings:
    """Compared between the lives of an engine: what began under one is not continued under another."""

    defaults: tuple[tuple[str, float], ...] = ()
    max_tokens_cap: int | None = None
    context_tokens: int | None = None
    """None where it is not known."""
    has_logits_processors: bool = False

    @staticmethod
    def of(told: Mapping[str, Any] | None) -> ServerSettings | None:
        """None where nothing was told, and for what cannot be read: then nothing is known. Never raises."""
        try:
            return None if told is None else _read(told)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def fill_in(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The request as the server takes it: with its defaults, where the request is silent."""
        said = {name: value for name, value in fields.items() if value is not None}
        return dict(self.defaults) | said

    def limit(self, asked: int | None, prompt_tokens: int) -> int | None:
        """How many tokens an answer may have that was `asked` to have so many; None where that is not known."""
        wanted = dict(self.defaults).get("max_tokens") if asked is None else asked
        if asked is None and self.context_tokens is None:
            return None
        room = None if self.context_tokens is None else self.context_tokens - prompt_tokens
        return min(int(count) for count in (wanted, room, self.max_tokens_cap) if count is not None)


def _read(told: Mapping[str, Any]) -> ServerSettings:
    defaults, processors = told["defaults"], told["logits_processors"]
    counts = told["max_tokens_cap"], told["context_tokens"]
    if not isinstance(processors, bool):
        raise ValueError("logits_processors is neither true nor false")
    if not all(count is None or (type(count) is int and count > 0) for count in counts):
        raise ValueError("a count is none")
    if not all(type(value) in (int, float) and math.isfinite(value) for value in defaults.values()):
        raise ValueError("a default is no number")
    return ServerSettings(tuple(sorted(defaults.items())), *counts, processors)


NOTHING_SET = ServerSettings()
