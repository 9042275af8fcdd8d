"""Chunks of a streamed answer, in place: channels of a delta, what a client did not ask for, server-sent events."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

DONE = b"data: [DONE]\n\n"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Made once: every event comes by here, and `json.dumps` makes an encoder for each call that is not plain."""
Translate = Callable[[str, str], str]


def event(data: Any) -> bytes:
    """A server-sent event, written as compactly as engines write theirs."""
    return b"data: %b\n\n" % dump(data)


def dump(data: Any) -> bytes:
    try:
        return _encode(data).encode()
    except UnicodeEncodeError:  # a lone surrogate can stand in JSON as an escape only
        return json.dumps(data, separators=(",", ":")).encode()


def error_event(kind: str, message: str, code: int) -> bytes:
    return event({"error": {"message": message, "type": kind, "param": None, "code": code}})


def walk_delta(delta: dict[str, Any], translate: Translate) -> bool:
    """Runs every text of a chat delta through `translate(channel, text)`, in place.

    Returns whether anything is left that says something. Ids of tool calls are channels of their own, `tool.N.id`.
    """
    left = False
    for name, value in list(delta.items()):
        if name == "role" or value is None:
            continue
        if isinstance(value, str):
            delta[name] = translate(name, value)
            left = left or bool(delta[name])
        elif name == "tool_calls" and isinstance(value, list):
            for call in value:  # all of them: each has to be translated
                left = (isinstance(call, dict) and _walk_call(call, translate)) or left
        else:
            left = True
    return left


def _walk_call(call: dict[str, Any], translate: Translate) -> bool:
    prefix = f"tool.{call.get('index', 0)}"
    left = False
    if isinstance(call.get("id"), str):
        call["id"] = translate(f"{prefix}.id", call["id"])
        left = bool(call["id"])
        if not left:
            del call["id"]
            call.pop("type", None)
    function = call.get("function")
    if isinstance(function, dict):
        for name, value in list(function.items()):
            if isinstance(value, str):
                function[name] = translate(f"{prefix}.{name}", value)
                left = left or bool(function[name])
                if name == "name" and not function[name]:
                    del function[name]
    return left


def keep_last_logprobs(choice: dict[str, Any], count: int, of: int) -> None:
    """Leaves the entries of the last `count` of `of` tokens, in chat's form and in completions'."""
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, dict) and count < of:
        for name, value in logprobs.items():
            if isinstance(value, list) and len(value) == of:
                logprobs[name] = value[of - count :]


def token_ids_of(choice: dict[str, Any]) -> Sequence[int]:
    """Raises ValueError where they are none."""
    ids = choice.get("token_ids")
    if ids is None:
        return ()
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise ValueError("token_ids is no list of token ids")
    return ids
