"""How a request can be continued, decided field by field.

`CONTINUE` needs every field to be known not to reach over the cut: a field that nobody has listed here makes it
`REPLAY`, where the engine itself does everything again. docs/streams.md shows these tables to people; a test holds them
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.dialect import Way
from rekindle_plugins.openai import transfers
from rekindle_plugins.openai.server_settings import NOTHING_SET, ServerSettings

UNSEEN = "it has no seed and is sampled: no other engine would draw the same tokens"

KEPT = frozenset(
    {
        "model",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "repetition_penalty",
        "logit_bias",
        "allowed_token_ids",
        "stop_token_ids",
        "ignore_eos",
        "skip_special_tokens",
        "stream",
        "stream_options",
        "stream_interval",
        "user",
        "cache_salt",
        "priority",
        "request_id",
        "session_id",
        "return_token_ids",
        "max_tokens",
        "min_tokens",
    }
)
"""Mean the same for the rest of an answer as for the whole. Budgets are decremented."""

IN_THE_PROMPT = frozenset(
    {
        "prompt",
        "messages",
        "add_special_tokens",
        "truncate_prompt_tokens",
        "truncation_side",
        "add_generation_prompt",
        "continue_final_message",
        "documents",
        "chat_template",
        "chat_template_kwargs",
        "reasoning_effort",
    }
)
"""Have done their work when the prompt's token ids are known."""


@dataclass(frozen=True)
class Rule:
    """A field that keeps an answer from being continued, unless it has one of the `neutral` values."""

    field: str
    way: Way
    reason: str
    neutral: tuple[Any, ...] = ()


def _replay(fields: str, reason: str, *neutral: Any) -> tuple[Rule, ...]:
    return tuple(Rule(field, Way.REPLAY, reason, neutral) for field in fields.split())


RULES: tuple[Rule, ...] = (
    Rule("kv_transfer_params", Way.IMPOSSIBLE, "nobody knows what another engine was to do with its KV", ({},)),
    Rule("ec_transfer_params", Way.IMPOSSIBLE, "its encoder's output came from another engine, and is gone", ({},)),
    *_replay("presence_penalty frequency_penalty", "penalties are counted over generated tokens only", 0),
    *_replay("response_format", "a grammar begins anew with every request", {"type": "text"}),
    *_replay(
        "structured_outputs guided_json guided_regex guided_choice guided_grammar",
        "a grammar begins anew with every request",
    ),
    *_replay("tools functions", "tool calls are parsed out of the whole answer", []),
    *_replay("tool_choice function_call", "tool calls are parsed out of the whole answer", "none"),
    *_replay("logprobs", "offsets are counted from the answer's start", False),
    *_replay("top_logprobs", "offsets are counted from the answer's start", 0),
    *_replay("prompt_logprobs logprob_token_ids", "offsets are counted from the answer's start"),
    *_replay("stop", "a stop string may lie over the cut", [], ""),
    *_replay("bad_words", "a forbidden word may lie over the cut", []),
    *_replay("n best_of", "several answers share the request", 1),
    *_replay("echo", "the prompt is part of the answer", False),
    *_replay("suffix", "what follows the answer is part of the prompt", ""),
    *_replay("prompt_embeds", "its prompt is not tokens"),
    *_replay("use_beam_search watermarking", "what is chosen depends on the whole answer", False),
    *_replay("repetition_detection thinking_token_budget", "it is counted over generated tokens only"),
    *_replay("include_stop_str_in_output", "a stop string may lie over the cut", False),
    *_replay("spaces_between_special_tokens", "spaces depend on the token before", True),
    *_replay(
        "return_tokens_as_token_ids return_prompt_text return_token_offsets", "it changes the answer's form", False
    ),
    *_replay("include_reasoning parallel_tool_calls", "the answer is parsed as a whole", True),
)
_BY_FIELD: Mapping[str, Rule] = {rule.field: rule for rule in RULES}


@dataclass(frozen=True)
class Plan:
    """The best way for a request once something has reached its client, and what stands against a better one."""

    way: Way
    reason: str = ""


def plan(
    fields: Mapping[str, Any],
    *,
    is_chat: bool,
    samples: bool,
    has_seed: bool,
    server: ServerSettings | None = NOTHING_SET,
) -> Plan:
    """`samples`: the engine may draw tokens for this request. `has_seed`: the same seed draws the same ones again.

    `server`: what the server sets for all requests; None where that is not known.
    """
    worst = Plan(Way.CONTINUE)
    for name, value in fields.items():
        found = _judge(name, value)
        if found.way is Way.IMPOSSIBLE:
            return found
        if found.way is Way.REPLAY and worst.way is Way.CONTINUE:
            worst = found
    if samples and not has_seed:
        return Plan(Way.IMPOSSIBLE, UNSEEN)
    if worst.way is not Way.CONTINUE:
        return worst
    if samples:
        return Plan(Way.REPLAY, "the noise of a seed begins anew with every request")
    return _judge_server(fields, server) or _judge_prompt(fields, is_chat, server or NOTHING_SET)


def _judge_server(fields: Mapping[str, Any], server: ServerSettings | None) -> Plan | None:
    """None where nothing that the server sets stands in the way. `fields` can be continued themselves."""
    if server is None:
        return Plan(Way.REPLAY, "nobody has told what the server sets for all requests")
    if server.has_logits_processors:
        return Plan(Way.REPLAY, "the server has logits processors of its own")
    for name, value in server.fill_in(fields).items():
        found = _judge(name, value)
        if found.way is not Way.CONTINUE:
            return Plan(Way.REPLAY, f"{found.reason}; the server sets it")
    return None


def _judge(name: str, value: Any) -> Plan:
    if value is None or name in KEPT or name in IN_THE_PROMPT or name == "max_completion_tokens":
        return Plan(Way.CONTINUE)
    if name == transfers.FIELD and transfers.fetches(value):
        return Plan(Way.CONTINUE)  # it has done its work when the prompt's KV is there
    rule = _BY_FIELD.get(name)
    if rule is None:
        return Plan(Way.REPLAY, f"nobody knows whether {name:.40} reaches over the cut")
    # `1 == True` in Python, but not for an engine.
    if any(value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in rule.neutral):
        return Plan(Way.CONTINUE)
    return Plan(rule.way, f"{name}: {rule.reason}")


def _judge_prompt(fields: Mapping[str, Any], is_chat: bool, server: ServerSettings) -> Plan:
    if is_chat:
        asked = asked_tokens(fields)
        is_known = is_count(asked) or (asked is None and server.context_tokens is not None)
        if not is_known or (asked is None and fields.get("truncate_prompt_tokens") is not None):
            return Plan(Way.REPLAY, "max_tokens: without it the engine's own limit holds, which is not known")
        if not all(_is_text(message) for message in fields.get("messages") or ()):
            return Plan(Way.REPLAY, "messages: images and sounds are not tokens of the prompt")
        return Plan(Way.CONTINUE)
    if fields.get("max_completion_tokens") is not None:
        return Plan(Way.REPLAY, "max_completion_tokens: it is a chat's")
    prompt = fields.get("prompt")
    if isinstance(prompt, str) or (isinstance(prompt, Sequence) and prompt and all(map(is_count, prompt))):
        return Plan(Way.CONTINUE)
    return Plan(Way.REPLAY, "prompt: several prompts share the request")


def _is_text(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, list):
        return all(isinstance(part, dict) and part.get("type") == "text" for part in content)
    return content is None or isinstance(content, str)


def asked_tokens(fields: Mapping[str, Any]) -> Any:
    """What a chat asks for as its longest answer, as it is; None where it does not."""
    newer = fields.get("max_completion_tokens")
    return fields.get("max_tokens") if newer is None else newer


def is_count(value: Any) -> bool:
    """Whether a JSON value is a whole number that is not negative. JSON's true is an int to Python."""
    return type(value) is int and value >= 0
