"""The driver: the smallest real use of the engine with its shim in it, for `rekindle plugin test`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from rekindle_plugins.contract import Answer, EngineFacts

from rekindle_myengine.engine import VOCABULARY, TinyEngine
from rekindle_myengine.shim import MyEngineShim

PAGES, PAGE_TOKENS = 24, 4


class MyEngineDriver:
    """One engine start. See `rekindle_plugins.contract.driver` for what is promised here."""

    changes: Sequence[str] = ("model_files", "geometry")
    shim: ClassVar[type[MyEngineShim]] = MyEngineShim

    def start(self, change: str) -> EngineFacts:
        weights = b"others" if change == "model_files" else b"weights"
        page_tokens = 2 * PAGE_TOKENS if change == "geometry" else PAGE_TOKENS
        self._engine = TinyEngine(weights, PAGES, page_tokens, self.shim(os.environ["REKINDLE_RUN_DIR"]))
        self._engine.start()
        return EngineFacts(page_tokens, PAGES, PAGES, PAGES * page_tokens, VOCABULARY)

    def submit(self, request_id: str, tokens: Sequence[int], max_tokens: int) -> None:
        self._engine.submit(request_id, tokens, max_tokens)

    def step(self) -> bool:
        return self._engine.step()

    def answer(self, request_id: str) -> Answer:
        request = self._engine.done.pop(request_id)
        return Answer(tuple(request.tokens[request.prompt_count :]), request.cached_tokens)

    def reset_cache(self) -> None:
        self._engine.reset_prefix_cache()

    def close(self) -> None:
        self._engine.close()
