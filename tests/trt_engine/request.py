"""A request as the stand-in's executor keeps it, with the attributes of `LlmRequest` that a connector reads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field


@dataclass
class Request:
    request_id: int
    prompt: Sequence[int]
    max_new_tokens: int
    cache_salt: str | None = None
    lora_task_id: int | None = None
    tokens: list[int] = field(default_factory=list)
    """What the host knows: the prompt, and what it has waited for."""
    device_tokens: list[int] = field(default_factory=list)
    """What the GPU has sampled."""
    pages: list[int] = field(default_factory=list)
    found_tokens: int = 0
    """In the engine's own prefix cache."""
    loaded_tokens: int = 0
    """Claimed by the connector."""
    context_position: int = 0
    launched: int = 0
    """Sampled tokens whose step was launched."""
    registered: int = 0
    """Pages that the prefix cache was told of."""
    reported_tokens: int = 0
    reported_pages: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    def get_tokens(self, beam: int) -> list[int]:
        assert beam == 0
        return list(self.tokens)

    @property
    def is_in_context(self) -> bool:
        return self.context_position < len(self.prompt)

    @property
    def is_complete(self) -> bool:
        return len(self.tokens) - len(self.prompt) >= self.max_new_tokens


@dataclass
class Batch:
    """One launched step, and the event behind its sampling."""

    context: list[Request]
    generation: list[Request]
    sampled: list[Request]
    event: Future[object]
