"""The nano engine's driver for `rekindle plugin test nano`. Needs `nano_engine` on the path: PYTHONPATH=examples."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rekindle_plugins.contract.driver import Answer, EngineFacts
from rekindle_plugins.nano.shim import NanoShim

if TYPE_CHECKING:
    from nano_engine.engine import Engine

PAGES, PAGE_TOKENS, STEP_TOKENS = 24, 8, 12
SEEDS = {"model_files": 1}
PAGE_TOKENS_OF = {"geometry": 16}


class NanoDriver:
    """One nano engine, stepped by the kit instead of by its loop."""

    changes: Sequence[str] = ("model_files", "geometry")
    shim: ClassVar[type[NanoShim]] = NanoShim

    def __init__(self) -> None:
        self._tokens: dict[str, list[int]] = defaultdict(list)
        self._cached: dict[str, int] = {}
        self._engine: Engine

    def start(self, change: str) -> EngineFacts:
        from nano_engine.engine import Engine, EngineConfig
        from nano_engine.model import VOCAB_SIZE
        from nano_engine.scheduler import Limits

        page_tokens = PAGE_TOKENS_OF.get(change, PAGE_TOKENS)
        config = EngineConfig(
            limits=Limits(step_tokens=STEP_TOKENS), pages=PAGES, page_tokens=page_tokens, seed=SEEDS.get(change, 0)
        )
        self._engine = Engine(config, self.shim(os.environ["REKINDLE_RUN_DIR"]))
        self._engine.start()
        return EngineFacts(page_tokens, PAGES, PAGES, PAGES * page_tokens, VOCAB_SIZE)

    def submit(self, request_id: str, tokens: Sequence[int], max_tokens: int) -> None:
        from nano_engine.request import Request

        self._engine.submit(Request(request_id, list(tokens), max_tokens))

    def step(self) -> bool:
        for output in self._engine.step():
            if output.token is not None:
                self._tokens[output.request_id].append(output.token)
            self._cached[output.request_id] = output.cached_tokens
        return self._engine.has_requests

    def answer(self, request_id: str) -> Answer:
        return Answer(tuple(self._tokens.pop(request_id)), self._cached.pop(request_id))

    def reset_cache(self) -> None:
        self._engine.reset_prefix_cache()

    def close(self) -> None:
        self._engine.close()
