"""The base of a dialect for an engine that speaks OpenAI's completions, with `return_token_ids`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rekindle_plugins.contract.dialect import Conversation, Dialect, EngineRequest, Way
from rekindle_plugins.openai import chunks, transfers
from rekindle_plugins.openai.conversation import OpenAiConversation, Planner, Wishes
from rekindle_plugins.openai.fields import asked_tokens, is_count
from rekindle_plugins.openai.server_settings import NOTHING_SET, ServerSettings


@dataclass(frozen=True)
class Quirks:
    """How an engine differs from others of its kind."""

    completion_path: str = "/v1/completions"
    chat_path: str | None = "/v1/chat/completions"
    default_max_tokens: int = 16
    """Of completions. A chat's is not known."""
    samples: bool = True
    """Draws tokens unless `temperature` is 0."""
    repeats_seeds: bool = False
    """The same seed and request give the same tokens in every process."""
    holds_text_back: bool = True
    """Text may come later than its token: characters of several tokens, special tokens."""
    absent_ids_are_null: bool = False
    """Token ids that were not asked for are there as null."""
    always_tells_usage: bool = False
    """Usage comes without being asked for, and stays in the stream."""


class OpenAiDialect(Dialect):
    """Subclasses set `quirks` and say which engine is theirs."""

    quirks: ClassVar[Quirks] = Quirks()
    continues_chat: bool = False
    """A chat's answer is nothing but the model's text, so that its rest can be asked for as a completion."""
    server: ServerSettings | None = NOTHING_SET
    """What this engine's server sets for all requests; None where nobody has told."""

    def understands(self, path: str) -> bool:
        return path in (self.quirks.completion_path, self.quirks.chat_path)

    def open(self, path: str, body: bytes, seed: int | None) -> Conversation | None:
        if not self.understands(path):
            return None
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict) or fields.get("stream") not in (None, True, False):
            return None
        options = fields.get("stream_options")
        if options is not None and not isinstance(options, dict):
            return None
        return self._open(path, body, fields, options or {}, seed)

    def _open(
        self, path: str, body: bytes, fields: dict[str, Any], options: Mapping[str, Any], seed: int | None
    ) -> Conversation:
        quirks = self.quirks
        wants_stream = bool(fields.get("stream"))
        samples = quirks.samples and not (fields.get("temperature") == 0 and fields["temperature"] is not False)
        sent = dict(fields)
        if samples and quirks.repeats_seeds and seed is not None and fields.get("seed") is None:
            sent["seed"] = seed
        has_seed = quirks.repeats_seeds and sent.get("seed") is not None
        planner = Planner(fields, path == quirks.chat_path, samples, has_seed, self.server)
        # The plan of a stream can wait: most never need one. What another engine is to know of the answer's KV is told
        # with a whole answer only.
        engine_streams = wants_stream or (planner.plan.way is Way.CONTINUE and not fields.get(transfers.FIELD))
        if engine_streams:
            sent["return_token_ids"] = True
            sent["stream"] = True
            if not wants_stream and not quirks.always_tells_usage:
                sent["stream_options"] = {"include_usage": True}
        wishes = Wishes(
            stream=wants_stream,
            token_ids=bool(fields.get("return_token_ids")),
            usage=bool(options.get("include_usage")) or quirks.always_tells_usage,
        )
        request = EngineRequest(path, chunks.dump(sent) if engine_streams else body)
        return OpenAiConversation(self, path, fields, request, planner, wishes, engine_streams)

    def token_limit(self, fields: Mapping[str, Any], prompt_tokens: int, is_chat: bool, server: ServerSettings) -> int:
        """How many tokens the answer may have; 0 where that is not known."""
        asked = asked_tokens(fields) if is_chat else fields.get("max_tokens", self.quirks.default_max_tokens)
        if asked is not None and not is_count(asked):
            return 0
        return server.limit(asked, prompt_tokens) or 0

    def whole(
        self,
        *,
        envelope: Mapping[str, Any],
        text: str,
        ending: Mapping[str, Any],
        usage: Mapping[str, Any],
        token_ids: Sequence[int] | None,
        prompt: Sequence[int] | None,
        is_chat: bool,
    ) -> dict[str, Any]:
        """The answer for a client that does not stream. An engine adds what its own has besides."""
        choice: dict[str, Any] = {"index": 0}
        if is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": ending.get("finish_reason")}
        if token_ids is not None:
            choice["token_ids"] = list(token_ids)
            if not is_chat:
                choice["prompt_token_ids"] = list(prompt or ())
        answer = {**envelope, "choices": [choice], "usage": dict(usage)}
        if is_chat:
            answer["object"] = "chat.completion"
        return answer
