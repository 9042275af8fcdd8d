"""Requests that name another engine's pages: named once and at once, never again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rekindle_plugins.contract.dialect import Conversation, EngineRequest, Way
from rekindle_plugins.openai.transfers import body_without_outdated, without_outdated
from rekindle_plugins.vllm.dialect import VllmDialect
from vllm_wire import CHAT, COMPLETIONS, NOTHING_SET, WireEngine

FETCH = {"do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": [[1, 2]], "remote_port": 5}
HOLD = {"do_remote_prefill": False, "do_remote_decode": True, "remote_block_ids": [[3]], "remote_engine_id": "d"}
GREEDY: dict[str, Any] = {"prompt": "x", "max_tokens": 9, "temperature": 0}


def dialect() -> VllmDialect:
    """Of a server that leaves everything to the requests."""
    known = VllmDialect()
    known.told(NOTHING_SET)
    return known


def opened(fields: dict[str, Any]) -> Conversation:
    conversation = dialect().open(COMPLETIONS, json.dumps(fields).encode(), 1)
    assert conversation is not None
    return conversation


def params_of(request: EngineRequest | None) -> Any:
    assert request is not None
    return json.loads(request.body).get("kv_transfer_params", "none")


@pytest.mark.parametrize("stream", [True, False])
def test_a_hand_over_is_named_at_first_and_not_again(stream: bool) -> None:
    conversation = opened(GREEDY | {"stream": stream, "kv_transfer_params": FETCH})
    assert params_of(conversation.request()) == FETCH
    resumption = conversation.resume(dialect())
    assert resumption.way is Way.FRESH
    assert params_of(resumption.request) == "none"


@pytest.mark.parametrize(("more", "way"), [({}, Way.CONTINUE), ({"stop": "never"}, Way.REPLAY)])
def test_an_answer_begun_on_handed_over_pages_goes_on_without_them(more: dict[str, Any], way: Way) -> None:
    conversation = opened(GREEDY | {"stream": True, "kv_transfer_params": FETCH} | more)
    call = conversation.request()
    for _, event in zip(range(4), WireEngine().events(call.path, call.body), strict=False):
        conversation.take(event)
    resumption = conversation.resume(dialect())
    assert resumption.way is way
    assert params_of(resumption.request) == "none"


def test_a_request_that_was_held_back_names_nothing() -> None:
    conversation = opened(GREEDY | {"stream": True, "kv_transfer_params": FETCH})
    conversation.outdate()
    assert params_of(conversation.request()) == "none"
    assert json.loads(conversation.request().body)["prompt"] == "x"


def test_the_first_step_is_asked_again_and_names_no_old_page() -> None:
    conversation = opened(GREEDY | {"max_tokens": 1, "kv_transfer_params": HOLD})
    assert not conversation.engine_streams, "a whole answer alone says where the pages are"
    assert params_of(conversation.request()) == HOLD
    resumption = conversation.resume(dialect())
    assert resumption.way is Way.FRESH
    assert params_of(resumption.request) == HOLD | {"remote_block_ids": None, "remote_engine_id": None}


@pytest.mark.parametrize("yes", [True, 1, "yes", [0]])
def test_a_step_is_whatever_an_engine_takes_for_one(yes: Any) -> None:
    fetch = json.dumps({"kv_transfer_params": FETCH | {"do_remote_prefill": yes}}).encode()
    assert json.loads(body_without_outdated(fetch)) == {}
    hold = json.dumps({"kv_transfer_params": HOLD | {"do_remote_decode": yes}}).encode()
    assert json.loads(body_without_outdated(hold))["kv_transfer_params"]["remote_block_ids"] is None


@pytest.mark.parametrize("body", [b"", b"x", b"[1]", b'{"a": [1]}', b"\xff", b'"kv_transfer_params"'])
def test_a_body_that_names_nothing_is_left_alone(body: bytes) -> None:
    assert body_without_outdated(body) is body


@pytest.mark.parametrize("params", [None, {}, {"a": 1}, [1], "x", {"do_remote_prefill": 0}])
def test_what_is_neither_step_stays_as_it_was(params: Any) -> None:
    request = EngineRequest(CHAT, json.dumps({"kv_transfer_params": params}).encode())
    assert without_outdated(request) == request
