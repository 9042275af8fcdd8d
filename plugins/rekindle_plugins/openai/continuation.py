"""A continuation: the request made of prompt and generated tokens, and its answer in the form of the first one.

It always goes to `/v1/completions`, which takes token ids: a chat's prompt was rendered by the first engine, and is
never rendered again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rekindle_plugins.contract.dialect import EngineRequest
from rekindle_plugins.openai.fields import IN_THE_PROMPT, KEPT

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


def continued_fields(sent: EngineRequest, tokens: Sequence[int], cut_tokens: int, limit_tokens: int) -> dict[str, Any]:
    """The fields of a request for what follows `tokens`, of whose end `cut_tokens` were generated.

    `limit_tokens`: how many the whole answer may have. It must be more than `cut_tokens`.
    """
    first = json.loads(sent.body)
    fields = {name: value for name, value in first.items() if name in KEPT - IN_THE_PROMPT and value is not None}
    fields |= {"prompt": list(tokens), "max_tokens": limit_tokens - cut_tokens, "stream": True}
    if fields.get("min_tokens"):
        fields["min_tokens"] = max(0, fields["min_tokens"] - cut_tokens)
    return fields


def chat_choice(choice: dict[str, Any]) -> None:
    """Makes a chat's choice of a completion's, in place."""
    choice["delta"] = {"content": choice.pop("text", None) or ""}
    choice.pop("prompt_token_ids", None)
    if choice.get("finish_reason") is None:
        choice.pop("stop_reason", None)


def continued_usage(usage: dict[str, Any], prompt_tokens: int, cut_tokens: int) -> dict[str, Any]:
    """The usage of the whole answer, from that of its continuation.

    How many tokens were cached is the fresh engine's count, at most the prompt: what the first one would have said died
    with it.
    """
    completion = int(usage.get("completion_tokens") or 0) + cut_tokens
    whole = {**usage, **dict(zip(_USAGE, (prompt_tokens, completion, prompt_tokens + completion), strict=True))}
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
        whole["prompt_tokens_details"] = {**details, "cached_tokens": min(details["cached_tokens"], prompt_tokens)}
    return whole
