"""What the vLLM dialect makes of answers recorded from vLLM 0.32."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rekindle_plugins.contract.dialect import EngineAnswer
from rekindle_plugins.nano.adapter import NanoAdapter
from rekindle_plugins.nano.dialect import NanoDialect
from rekindle_plugins.vllm.adapter import VllmAdapter
from rekindle_plugins.vllm.dialect import VllmDialect
from vllm_wire import CHAT, COMPLETIONS, NOTHING_SET, WireEngine

MODELS = b'{"object":"list","data":[{"id":"m","object":"model","owned_by":"vllm","max_model_len":4096}]}'
NANO_MODELS = b'{"object": "list", "data": [{"id": "nano", "object": "model", "owned_by": "rekindle"}]}'
REFUSED = EngineAnswer(
    400,
    b'{"error":{"message":"\\"auto\\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set",'
    b'"type":"BadRequestError","param":null,"code":400}}',
)


def chat_answer(usage: dict[str, Any], **message: Any) -> EngineAnswer:
    message = {"role": "assistant", "content": "A", "reasoning": None} | message
    answer = {"choices": [{"index": 0, "message": message}], "usage": {"prompt_tokens": 1} | usage}
    return EngineAnswer(200, json.dumps(answer).encode())


PLAIN = chat_answer({"completion_tokens_details": None})


def test_each_engine_is_recognised_by_its_models_and_by_no_others() -> None:
    assert VllmDialect().recognises(MODELS)
    assert NanoDialect().recognises(NANO_MODELS)
    for strange in (b"", b"{}", b"[]", b'{"data":[{}]}', b'{"data":3}', b"\xff"):
        assert not VllmDialect().recognises(strange)
        assert not NanoDialect().recognises(strange)
    assert not VllmDialect().recognises(NANO_MODELS)
    assert not NanoDialect().recognises(MODELS)
    assert isinstance(VllmAdapter().dialect(), VllmDialect)
    assert isinstance(NanoAdapter().dialect(), NanoDialect)


def test_a_fresh_engine_is_asked_for_its_parsers_with_one_token_at_most() -> None:
    questions = VllmDialect().questions(MODELS)
    assert {question.path for question in questions} == {CHAT}
    assert [json.loads(question.body)["max_tokens"] for question in questions] == [1, 1]
    assert all(json.loads(question.body)["model"] == "m" for question in questions)


@pytest.mark.parametrize(
    ("with_tools", "plain", "continues"),
    [
        (REFUSED, PLAIN, True),
        (PLAIN, PLAIN, False),
        (REFUSED, chat_answer({"completion_tokens_details": {"reasoning_tokens": 0}}), False),
        (REFUSED, chat_answer({}, reasoning="hm"), False),
        (EngineAnswer(400, b"another reason"), PLAIN, False),
        (REFUSED, EngineAnswer(400, b'{"error":{"message":"no chat template"}}'), False),
        (EngineAnswer(0, b""), EngineAnswer(0, b""), False),
        (REFUSED, EngineAnswer(200, b"nonsense"), False),
    ],
    ids=[
        "no parser",
        "tool parser",
        "reasoning parser",
        "reasoning",
        "other refusal",
        "no chat",
        "silence",
        "nonsense",
    ],
)
def test_a_chat_is_continued_only_where_the_engine_showed_that_it_has_no_parser(
    with_tools: EngineAnswer, plain: EngineAnswer, continues: bool
) -> None:
    learnt = VllmDialect().learn([with_tools, plain])
    assert isinstance(learnt, VllmDialect)
    assert learnt.continues_chat is continues
    assert not VllmDialect().continues_chat


def test_a_server_that_outlives_its_engine_is_told_by_its_words() -> None:
    dead = b'{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause."}}'
    assert VllmDialect().says_dying(EngineAnswer(500, dead))
    assert not VllmDialect().says_dying(EngineAnswer(200, dead))
    assert not VllmDialect().says_dying(EngineAnswer(500, b"{}"))


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("wants_ids", [False, True])
def test_an_answer_put_together_has_every_field_of_vllms_own(path: str, wants_ids: bool) -> None:
    fields: dict[str, Any] = {"max_tokens": 3, "temperature": 0, "return_token_ids": wants_ids}
    fields |= {"messages": [{"role": "user", "content": "a"}]} if path == CHAT else {"prompt": "a"}
    dialect = VllmDialect()
    dialect.told(NOTHING_SET)
    conversation = dialect.open(path, json.dumps(fields).encode(), 0)
    assert conversation is not None
    call = conversation.request()
    for event in WireEngine().events(call.path, call.body):
        conversation.take(event)
    whole = json.loads(conversation.whole())
    choice = whole["choices"][0]
    shared = {"index", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts"}
    beside = {"id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"}
    beside |= {"kv_transfer_params", "ec_transfer_params", "metrics"}
    if path == CHAT:
        assert set(choice) == shared | {"message"}
        names = {"role", "content", "refusal", "annotations", "audio", "function_call", "reasoning"}
        assert set(choice["message"]) == names
        assert set(whole) == beside | {"prompt_logprobs", "prompt_token_ids", "prompt_text"}
        assert whole["object"] == "chat.completion"
    else:
        assert set(choice) == shared | {"text", "prompt_logprobs", "prompt_token_ids"}
        assert set(whole) == beside
        assert whole["object"] == "text_completion"
    assert set(whole["usage"]["prompt_tokens_details"]) == {
        "cached_tokens",
        "created_cache_tokens",
        "multimodal_tokens",
    }
    assert (choice["token_ids"] is not None) is wants_ids
