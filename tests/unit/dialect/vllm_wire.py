"""What vLLM 0.32 writes, event by event, for a model whose tokens are bytes and whose next token is a hash.

Shapes and orders are recorded from a real one. `steps` says how many tokens come in each event. Text is held back as by
tokenizers' DecodeStream, with what it does when a prompt ends inside a character: it gives the prompt out again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

ALPHABET = [character.encode() for character in "abc é漢😀ß"]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def next_token(prompt: Sequence[int], output: Sequence[int], fields: dict[str, Any]) -> int:
    """Depends on everything before; with penalties or a seed, also on what is output and what prompt."""
    everything = bytes([*prompt, *output])
    extra = f"{len(output)} {fields['seed']}" if fields.get("temperature") != 0 and fields.get("seed") else ""
    extra += str(len(set(output))) if fields.get("presence_penalty") else ""
    for length in (3, 2, 1):
        tail = everything[len(everything) - length :]
        begun = [c for c in ALPHABET if len(tail) == length < len(c) and c.startswith(tail)]
        if begun:
            return begun[hash_of(everything + extra.encode()) % len(begun)][length]
    return ALPHABET[hash_of(everything + extra.encode()) % len(ALPHABET)][0]


def hash_of(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


NOTHING_SET = {"defaults": {}, "max_tokens_cap": None, "context_tokens": None, "logits_processors": False}
"""What a shim tells of a server (`vllm.serving`) that leaves everything to the requests."""


class DecodeStream:
    """tokenizers 0.22, `step_decode_stream`, for one token a byte."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self.prefix = ""
        self.prefix_index = 0

    def step(self, token: int) -> str:
        if not self.prefix and self.ids:
            new = decode(self.ids)
            if not new.endswith("\ufffd"):
                self.prefix, self.prefix_index = new, len(self.ids)
        self.ids.append(token)
        text = decode(self.ids)
        if len(text) <= len(self.prefix) or text.endswith("\ufffd"):
            return ""
        out = text[len(self.prefix) :]
        new_index = len(self.ids) - self.prefix_index
        self.ids = self.ids[self.prefix_index :]
        self.prefix, self.prefix_index = decode(self.ids), new_index
        return out


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


@dataclass
class WireEngine:
    """One life of an engine. `number` makes its ids its own; `server` is what its server sets for all requests."""

    number: int = 1
    server: dict[str, Any] = field(default_factory=lambda: NOTHING_SET)

    def events(self, path: str, body: bytes, steps: Sequence[int] = (1,)) -> Iterator[bytes]:
        said = {name: value for name, value in json.loads(body).items() if value is not None}
        fields = self.server["defaults"] | said
        is_chat = path == CHAT
        prompt = list(self.prompt_of(path, fields))
        envelope = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{self.number}",
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": 1000 + self.number,
            "model": "m",
        }
        wants_ids = bool(fields.get("return_token_ids"))
        if is_chat:
            choice = {
                "index": 0,
                "delta": {"role": "assistant", "content": ""},
                "logprobs": None,
                "finish_reason": None,
            }
            ids = prompt if wants_ids else None
            yield dump(envelope | {"choices": [choice], "prompt_token_ids": ids, "prompt_text": None})
        context = self.server["context_tokens"]
        room = context - len(prompt) if context else None
        asked = fields.get("max_completion_tokens") or fields.get("max_tokens") or (None if context else 24)
        limit = min(count for count in (asked, room, self.server["max_tokens_cap"]) if count is not None)
        output: list[int] = []
        decoder = DecodeStream(prompt)
        for count in chain(steps, repeat(1)):
            new: list[int] = []
            text = ""
            while len(new) < count and len(output) < limit:
                token = next_token(prompt, output, fields)
                output.append(token)
                new.append(token)
                text += decoder.step(token)
            finish = "length" if len(output) == limit else None
            choice = {"index": 0, "logprobs": None, "finish_reason": finish}
            choice |= {"delta": {"content": text}} if is_chat else {"text": text}
            if not is_chat:
                is_first = len(new) == len(output)
                choice |= {"stop_reason": None, "prompt_token_ids": prompt if is_first and wants_ids else None}
            choice["token_ids"] = new if wants_ids else None
            yield dump(envelope | {"choices": [choice]})
            if finish:
                break
        if (fields.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": len(prompt), "total_tokens": len(prompt) + limit, "completion_tokens": limit}
            yield dump(envelope | {"choices": [], "usage": usage | {"prompt_tokens_details": {"cached_tokens": 0}}})
        yield b"[DONE]"

    def prompt_of(self, path: str, fields: dict[str, Any]) -> Sequence[int]:
        if path == CHAT:
            return "".join(f"{m['role']}: {m['content']}\n" for m in fields["messages"]).encode()
        prompt = fields["prompt"]
        return prompt.encode() if isinstance(prompt, str) else prompt


def dump(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
