"""vLLM's dialect (0.28 to 0.32). Imports nothing of vLLM.

A chat is continued as a completion of its prompt's and answer's tokens, which is exact only where the server puts no
parser between the model's text and the answer. Two questions to a fresh engine find that out: `tool_choice: auto` is
refused before anything is computed where there is no tool parser, and the usage of one token names reasoning tokens
where there is a reasoning parser.

What the server sets for requests that are silent about it (the model's generation_config.json, or
`--override-generation-config`) is told by the shim: see `vllm.serving`. Until it is, nothing is continued.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rekindle_plugins.contract.dialect import Dialect, EngineAnswer, EngineRequest
from rekindle_plugins.openai import OpenAiDialect, Quirks, chunks
from rekindle_plugins.openai.server_settings import ServerSettings

DEAD = b"EngineCore encountered an issue"
"""Of vllm.v1.engine.exceptions.EngineDeadError: the API server outlives its engine for a moment."""
NO_TOOL_PARSER = b"--enable-auto-tool-choice"
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_COMPLETION_MORE = ("stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts")
_MESSAGE_MORE = ("refusal", "annotations", "audio", "function_call", "reasoning")
_PROMPT_DETAILS = ("cached_tokens", "created_cache_tokens", "multimodal_tokens")
_ANSWER_MORE = ("kv_transfer_params", "ec_transfer_params", "metrics")
_CHAT_ANSWER_MORE = ("prompt_logprobs", "prompt_token_ids", "prompt_text", *_ANSWER_MORE)


class VllmDialect(OpenAiDialect):
    """`vllm serve` and its like."""

    quirks: ClassVar[Quirks] = Quirks(repeats_seeds=True, absent_ids_are_null=True)

    server: ServerSettings | None = None

    def recognises(self, models: bytes) -> bool:
        return bool(_models(models))

    def questions(self, models: bytes) -> Sequence[EngineRequest]:
        fields = {"model": _models(models)[0], "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
        path = str(self.quirks.chat_path)
        with_tools = fields | {"tools": [_TOOL], "tool_choice": "auto"}
        return EngineRequest(path, chunks.dump(with_tools)), EngineRequest(path, chunks.dump(fields))

    def learn(self, answers: Sequence[EngineAnswer]) -> Dialect:
        refused, plain = answers
        known = copy.copy(self)
        no_tools = refused.status == 400 and NO_TOOL_PARSER in refused.body
        known.continues_chat = no_tools and plain.status == 200 and _is_plain(plain.body)
        return known

    def told(self, serving: Mapping[str, Any] | None) -> None:
        self.server = ServerSettings.of(serving)

    def says_dying(self, answer: EngineAnswer) -> bool:
        return answer.status >= 500 and DEAD in answer.body

    def whole(self, *, is_chat: bool, ending: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
        """As vLLM writes it, with its nulls."""
        answer = super().whole(is_chat=is_chat, ending=ending, **parts)
        choice = answer["choices"][0]
        choice["stop_reason"] = ending.get("stop_reason")
        more = ("token_ids", "routed_experts") if is_chat else _COMPLETION_MORE
        choice |= {name: None for name in more if name not in choice}
        if is_chat:
            choice["message"] |= dict.fromkeys(_MESSAGE_MORE)
        answer |= dict.fromkeys(_CHAT_ANSWER_MORE if is_chat else _ANSWER_MORE)
        if is_chat:
            answer["prompt_token_ids"] = parts["prompt"]
        usage = answer["usage"]
        usage.setdefault("completion_tokens_details", None)
        details = usage.setdefault("prompt_tokens_details", None)
        if isinstance(details, dict):
            usage["prompt_tokens_details"] = dict.fromkeys(_PROMPT_DETAILS) | details
        return answer | {"service_tier": None, "system_fingerprint": ending.get("system_fingerprint")}


def _models(models: bytes) -> list[str]:
    try:
        return [str(model["id"]) for model in json.loads(models)["data"] if model["owned_by"] == "vllm"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _is_plain(body: bytes) -> bool:
    try:
        answer = json.loads(body)
        message = answer["choices"][0]["message"]
        return answer["usage"].get("completion_tokens_details") is None and message.get("reasoning") is None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return False
