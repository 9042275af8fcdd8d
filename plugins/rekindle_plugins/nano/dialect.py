"""The nano engine's dialect: completions only, always greedy, one byte a token, so that text never lags."""

from __future__ import annotations

import json
from typing import ClassVar

from rekindle_plugins.openai import OpenAiDialect, Quirks


class NanoDialect(OpenAiDialect):
    """`examples/nano_engine`."""

    quirks: ClassVar[Quirks] = Quirks(chat_path=None, samples=False, holds_text_back=False, always_tells_usage=True)

    def recognises(self, models: bytes) -> bool:
        try:
            return any(
                model["owned_by"] == "rekindle" and model["id"] == "nano" for model in json.loads(models)["data"]
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
