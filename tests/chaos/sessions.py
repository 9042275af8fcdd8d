"""Client sessions under fire: conversations that go on over engine deaths, and check every token they are given.

A session is a thread. Its turns grow with what was said before; sessions share prefixes. When a stream breaks, the
session waits for the engine's next address and sends what it has: prompt and generated tokens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from driving.reference import Reference, prompt
from nano_engine.client import Completion, EngineGone

TURN_TOKENS = (24, 60)
ANSWER_TOKENS = 40
TURNS = 4
STUCK_S = 30.0
"""The longest that one answer may take, over all the kills it meets, unless the engine keeps dying."""


@dataclass
class Address:
    """Where the engine is now. `number` counts its lives."""

    condition: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""
    number: int = 0
    closed: bool = False

    def publish(self, url: str) -> None:
        with self.condition:
            self.url, self.number = url, self.number + 1
            self.condition.notify_all()

    def close(self) -> None:
        with self.condition:
            self.closed = True
            self.condition.notify_all()

    def after(self, number: int) -> tuple[str, int] | None:
        """The address of a later life than `number`; None when there will be none."""
        with self.condition:
            while self.number <= number and not self.closed:
                self.condition.wait(1.0)
            return None if self.closed else (self.url, self.number)


@dataclass
class Figures:
    """Totals of one session."""

    answers: int = 0
    tokens: int = 0
    resumed: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0


class Session(threading.Thread):
    """Converses until the address is closed. `problems` are sentences; any is a failure."""

    def __init__(self, index: int, seed: int, address: Address, reference: Reference) -> None:
        super().__init__(name=f"session-{index}", daemon=True)
        self.figures = Figures()
        self.problems: list[str] = []
        self.busy_since = time.monotonic()
        self._index = index
        self._seed = seed
        self._address = address
        self._reference = reference
        self._number = 0

    def run(self) -> None:
        conversation = 0
        while not self._address.closed and not self.problems:
            self._converse(conversation)
            conversation += 1

    @property
    def stuck_s(self) -> float:
        return time.monotonic() - self.busy_since

    def _converse(self, conversation: int) -> None:
        # Pairs of sessions open with the same words, and every third conversation is one that was held before.
        topic = conversation if conversation % 3 else 0
        history = prompt(64, seed=self._seed * 1000 + topic * 10 + self._index // 2)
        for turn in range(TURNS):
            said = self._seed + 7919 * (topic + 1) + turn + self._index
            history += prompt(TURN_TOKENS[(turn + self._index) % 2], said)
            expected = self._reference.tokens(history, ANSWER_TOKENS)
            got = self._answer(history, expected)
            if got is None:
                return
            history += got

    def _answer(self, history: Sequence[int], expected: Sequence[int]) -> list[int] | None:
        """One whole answer, over however many engines it takes. None at the end of it all."""
        got: list[int] = []
        self.busy_since = time.monotonic()
        while len(got) < ANSWER_TOKENS:
            where = self._address.after(self._number - 1)
            if where is None:
                return None
            url, self._number = where
            try:
                with Completion(url, [*history, *got], max_tokens=ANSWER_TOKENS - len(got)) as stream:
                    for token in stream:
                        self._check(token, len(got), expected, history)
                        got.append(token)
                        if self.problems:
                            return None
                self.figures.cached_tokens += stream.cached_tokens
                self.figures.prompt_tokens += len(history)
            except EngineGone:
                self.figures.resumed += 1
                self._number += 1
                self.busy_since = time.monotonic()
        self.figures.answers += 1
        self.figures.tokens += len(got)
        return got

    def _check(self, token: int, position: int, expected: Sequence[int], history: Sequence[int]) -> None:
        if token != expected[position]:
            self.problems.append(
                f"{self.name}: token {position} after {len(history)} of history is {token}, not {expected[position]}"
            )
