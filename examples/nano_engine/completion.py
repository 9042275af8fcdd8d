"""OpenAI's completions in JSON: the body taken apart and checked, the answers put together. No I/O.

Beyond OpenAI it knows vLLM's `return_token_ids`, `stop_token_ids`, `ignore_eos` and `cache_salt`. The model is
byte-level: a prompt string is its UTF-8 bytes. It has no end-of-sequence token and always samples greedily, so
`ignore_eos` and `temperature` are accepted and change nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nano_engine.request import Finish, Request, RequestError

DEFAULT_MAX_TOKENS = 16
MAX_SALT_CHARACTERS = 256


@dataclass(frozen=True)
class CompletionParams:
    """A completion as the client asked for it."""

    prompt: tuple[int, ...]
    max_tokens: int
    stop_token_ids: frozenset[int]
    cache_salt: str
    stream: bool
    return_token_ids: bool

    def request(self, request_id: str) -> Request:
        return Request(request_id, list(self.prompt), self.max_tokens, self.stop_token_ids, self.cache_salt)


def parse_completion(body: bytes) -> CompletionParams:
    """Raises RequestError, worded for the client, for anything this engine would have to answer wrongly."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object")
    for name, only in (("n", 1), ("best_of", 1), ("echo", False), ("stop", None), ("logprobs", None)):
        if fields.get(name) not in (None, only):
            raise RequestError(f"{name} is not supported")
    max_tokens = fields.get("max_tokens")
    max_tokens = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    if type(max_tokens) is not int:
        raise RequestError("max_tokens must be an integer")
    salt = fields.get("cache_salt")
    salt = "" if salt is None else salt
    if not isinstance(salt, str) or len(salt) > MAX_SALT_CHARACTERS:
        raise RequestError(f"cache_salt must be a string of at most {MAX_SALT_CHARACTERS} characters")
    stop_token_ids = fields.get("stop_token_ids")
    return CompletionParams(
        prompt=_prompt_tokens(fields.get("prompt")),
        max_tokens=max_tokens,
        stop_token_ids=frozenset(_token_ids("stop_token_ids", [] if stop_token_ids is None else stop_token_ids)),
        cache_salt=salt,
        stream=_flag(fields, "stream"),
        return_token_ids=_flag(fields, "return_token_ids"),
    )


def _prompt_tokens(prompt: Any) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return tuple(_utf8(prompt))
    if prompt is None:
        raise RequestError("prompt is missing")
    return _token_ids("prompt", prompt)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise RequestError("prompt holds a lone surrogate, which has no UTF-8") from None


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    # `type(x) is int` and not isinstance: JSON's true is an int to Python.
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise RequestError(f"{name} must be a {'string or a ' if name == 'prompt' else ''}list of token ids")
    return tuple(value)


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value not in (None, True, False):
        raise RequestError(f"{name} must be true or false")
    return bool(value)


class CompletionWriter:
    """The JSON of one completion's answer, whole or in chunks."""

    def __init__(self, params: CompletionParams, completion_id: str, model_name: str) -> None:
        self._params = params
        self._id = completion_id
        self._model_name = model_name
        self._created = int(time.time())
        self._first = True

    def chunk(self, tokens: Sequence[int], finish: Finish | None) -> dict[str, Any]:
        """Some tokens; the first chunk also repeats the prompt's ids when ids were asked for."""
        choice: dict[str, Any] = {
            "index": 0,
            "text": bytes(tokens).decode("ascii"),
            "logprobs": None,
            "finish_reason": finish.value if finish else None,
        }
        if self._params.return_token_ids:
            if self._first:
                choice["prompt_token_ids"] = list(self._params.prompt)
            choice["token_ids"] = list(tokens)
        self._first = False
        return self._envelope([choice])

    def usage_chunk(self, generated_count: int, cached_tokens: int) -> dict[str, Any]:
        """The last chunk of a stream: no choice, only usage, as OpenAI sends it."""
        return self._envelope([]) | {"usage": self._usage(generated_count, cached_tokens)}

    def whole(self, tokens: Sequence[int], finish: Finish, cached_tokens: int) -> dict[str, Any]:
        return self.chunk(tokens, finish) | {"usage": self._usage(len(tokens), cached_tokens)}

    def _envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model_name,
            "choices": choices,
        }

    def _usage(self, generated_count: int, cached_tokens: int) -> dict[str, Any]:
        prompt_count = len(self._params.prompt)
        return {
            "prompt_tokens": prompt_count,
            "completion_tokens": generated_count,
            "total_tokens": prompt_count + generated_count,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }
