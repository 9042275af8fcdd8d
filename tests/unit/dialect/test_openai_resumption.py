"""Whatever is cut, however often and wherever: the client sees the answer of an engine that never died."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle_plugins.contract.dialect import NotResumableError, Turn, Way
from rekindle_plugins.openai import OpenAiDialect
from rekindle_plugins.openai.conversation import OpenAiConversation
from rekindle_plugins.vllm.dialect import VllmDialect
from vllm_wire import CHAT, COMPLETIONS, NOTHING_SET, WireEngine

SEED = 99
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def vllm(continues_chat: bool = True, server: dict[str, Any] | None = NOTHING_SET) -> OpenAiDialect:
    dialect = copy.copy(VllmDialect())
    dialect.continues_chat = continues_chat
    dialect.told(server)
    return dialect


def opened(dialect: OpenAiDialect, path: str, fields: dict[str, Any]) -> OpenAiConversation:
    conversation = dialect.open(path, json.dumps(fields).encode(), SEED)
    assert isinstance(conversation, OpenAiConversation)
    return conversation


def answered(
    path: str,
    fields: dict[str, Any],
    lives: Sequence[tuple[int, Sequence[int]]] = (),
    continues_chat: bool = True,
    server: dict[str, Any] = NOTHING_SET,
) -> tuple[bytes, list[Way]]:
    """What the client has at the end. `lives`: of each engine that dies, after how many events, and its steps."""
    dialect = vllm(continues_chat, server)
    conversation = opened(dialect, path, fields)
    call, ways = conversation.request(), [Way.FRESH]
    out = b""
    left = [*lives]
    for number in range(1, 99):
        events, steps = left.pop(0) if left else (1 << 30, (1,))
        nowhere = False
        for index, event in enumerate(WireEngine(number, server).events(call.path, call.body, steps)):
            if index == events:
                break
            try:
                taken = conversation.take(event)
            except NotResumableError as error:
                conversation.refuse(error.problem)
                nowhere = True
                break
            out += taken.out
            if taken.turn is Turn.COMPLETE:
                return out or conversation.whole(), ways
        rest = None if nowhere else conversation.remainder()
        if rest is not None:
            return out + rest or conversation.whole(), ways
        resumption = conversation.resume(dialect)
        ways.append(resumption.way)
        assert resumption.request is not None, resumption.reason
        call = resumption.request
    raise AssertionError("it never ends")


def seen(out: bytes) -> dict[str, Any]:
    """What a client makes of the events: text, ids, finish, usage, and that all is of one answer."""
    events = [line[6:] for line in out.split(b"\n\n") if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    data = [json.loads(event) for event in events[:-1]]
    choices = [choice for chunk in data for choice in chunk["choices"]]
    texts = [choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices]
    return {
        "answers": len({(chunk["id"], chunk["created"]) for chunk in data}),
        "objects": {chunk["object"] for chunk in data},
        "text": "".join(texts),
        "token_ids": [token for choice in choices for token in choice.get("token_ids") or ()],
        "prompts": [c["prompt_token_ids"] for c in [*data, *choices] if c.get("prompt_token_ids")],
        "roles": [choice["delta"]["role"] for choice in choices if "role" in choice.get("delta", {})],
        "finish": [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        # How much of the prompt was cached is told with the last event, and dies with the engine that knows it.
        "usage": [{name: chunk["usage"][name] for name in COUNTS} for chunk in data if chunk.get("usage")],
    }


LIVES = st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(1, 5), max_size=12)), max_size=4)
WANTS = st.fixed_dictionaries(
    {}, optional={"return_token_ids": st.just(True), "stream_options": st.just({"include_usage": True})}
)
MESSAGES = {"messages": [{"role": "user", "content": "é?"}]}


@settings(max_examples=40, deadline=None)
@given(LIVES, WANTS, st.integers(1, 40), st.text("ab é", max_size=6))
def test_a_greedy_completion_is_continued_at_any_place(
    lives: list[tuple[int, list[int]]], wants: dict[str, Any], count: int, prompt: str
) -> None:
    fields = {"prompt": prompt, "max_tokens": count, "temperature": 0, "stream": True} | wants
    out, ways = answered(COMPLETIONS, fields, lives)
    assert seen(out) == seen(answered(COMPLETIONS, fields)[0])
    assert Way.IMPOSSIBLE not in ways


@settings(max_examples=40, deadline=None)
@given(LIVES, WANTS, st.integers(1, 40), st.sampled_from([True, False]))
def test_a_greedy_chat_is_continued_at_any_place(
    lives: list[tuple[int, list[int]]], wants: dict[str, Any], count: int, continues_chat: bool
) -> None:
    fields = MESSAGES | {"max_tokens": count, "temperature": 0, "stream": True} | wants
    out, ways = answered(CHAT, fields, lives, continues_chat)
    assert seen(out) == seen(answered(CHAT, fields)[0])
    assert continues_chat or Way.CONTINUE not in ways


@pytest.mark.parametrize(
    "more",
    [{"presence_penalty": 1}, {"temperature": 1}, {"temperature": 1, "seed": 5}, {"max_tokens": None}],
    ids=["penalty", "sampled", "seeded", "no limit"],
)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@settings(max_examples=40, deadline=None)
@given(LIVES, WANTS)
def test_what_reaches_over_the_cut_is_replayed_and_gives_the_same(
    path: str, more: dict[str, Any], lives: list[tuple[int, list[int]]], wants: dict[str, Any]
) -> None:
    fields = {"temperature": 0, "max_tokens": 24, "stream": True} | more | wants
    fields |= MESSAGES if path == CHAT else {"prompt": "a"}
    out, ways = answered(path, fields, lives)
    assert seen(out) == seen(answered(path, fields)[0])
    assert not {Way.CONTINUE, Way.IMPOSSIBLE} & set(ways)


SERVERS = st.fixed_dictionaries(
    {
        "defaults": st.sampled_from([{}, {"repetition_penalty": 1.1, "temperature": 0.6}, {"presence_penalty": 0.5}]),
        "max_tokens_cap": st.sampled_from([None, 9, 30]),
        "context_tokens": st.sampled_from([None, 32, 60]),
        "logits_processors": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(LIVES, st.sampled_from([COMPLETIONS, CHAT]), st.sampled_from([None, 5, 50]), SERVERS)
def test_what_the_server_sets_for_all_requests_holds_for_the_whole_answer(
    lives: list[tuple[int, list[int]]], path: str, asked: int | None, server: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": asked, "stream": True, "return_token_ids": True}
    fields |= MESSAGES if path == CHAT else {"prompt": "a"}
    out, ways = answered(path, fields, lives, server=server)
    assert seen(out) == seen(answered(path, fields, server=server)[0])
    if server["defaults"].get("presence_penalty") or server["logits_processors"]:
        assert Way.CONTINUE not in ways
    _, explicit = answered(path, fields | {"presence_penalty": 0, "max_tokens": 24}, [(4, [1])], server=server)
    assert explicit[1:] == [Way.REPLAY if server["logits_processors"] else Way.CONTINUE]


@pytest.mark.parametrize(
    ("before", "after", "way"),
    [
        (NOTHING_SET, NOTHING_SET, Way.CONTINUE),
        (None, NOTHING_SET, Way.REPLAY),
        (NOTHING_SET, None, Way.REPLAY),
        (NOTHING_SET, NOTHING_SET | {"defaults": {"repetition_penalty": 1.2}}, Way.REPLAY),
        (NOTHING_SET, NOTHING_SET | {"max_tokens_cap": 10}, Way.REPLAY),
        (NOTHING_SET | {"defaults": {"new": 1}}, NOTHING_SET | {"defaults": {"new": 1}}, Way.REPLAY),
        (NOTHING_SET | {"defaults": {"top_p": "x"}}, NOTHING_SET | {"defaults": {"top_p": "x"}}, Way.REPLAY),
        ({"defaults": []}, {"defaults": []}, Way.REPLAY),
    ],
    ids=["told", "not before", "not after", "other default", "other cap", "new default", "no number", "nonsense"],
)
def test_an_answer_is_continued_only_where_both_engines_told_the_same_and_all_of_it_is_known(
    before: dict[str, Any] | None, after: dict[str, Any] | None, way: Way
) -> None:
    fields = {"prompt": "x", "max_tokens": 30, "temperature": 0, "stream": True}
    conversation = opened(vllm(server=before), COMPLETIONS, fields)
    call = conversation.request()
    for _, event in zip(range(9), WireEngine().events(call.path, call.body), strict=False):
        conversation.take(event)
    assert conversation.resume(vllm(server=after)).way is way


@settings(max_examples=40, deadline=None)
@given(LIVES, st.integers(1, 40), st.sampled_from([COMPLETIONS, CHAT]))
def test_an_answer_that_does_not_stream_is_put_together(
    lives: list[tuple[int, list[int]]], count: int, path: str
) -> None:
    fields = {"temperature": 0, "max_tokens": count, "return_token_ids": True}
    fields |= MESSAGES if path == CHAT else {"prompt": "a"}
    out, _ = answered(path, fields, lives)
    whole = json.loads(out)
    reference = seen(answered(path, fields | {"stream": True, "stream_options": {"include_usage": True}})[0])
    choice = whole["choices"][0]
    assert (choice["message"]["content"] if path == CHAT else choice["text"]) == reference["text"]
    assert choice["token_ids"] == reference["token_ids"]
    assert choice["finish_reason"] == "length"
    assert {name: whole["usage"][name] for name in COUNTS} == reference["usage"][0]


def test_a_continuation_asks_for_less_than_a_character_again() -> None:
    conversation = opened(vllm(), COMPLETIONS, {"prompt": "x", "max_tokens": 30, "min_tokens": 9, "temperature": 0})
    call = conversation.request()
    for _, event in zip(range(12), WireEngine().events(call.path, call.body), strict=False):
        conversation.take(event)
    resumption = conversation.resume(vllm())
    assert resumption.way is Way.CONTINUE
    assert resumption.request is not None
    fields = json.loads(resumption.request.body)
    again = 12 - (len(fields["prompt"]) - 1)
    assert 0 <= again < 4
    assert fields["max_tokens"] == 30 - 12 + again
    assert fields["min_tokens"] == 0
    assert fields["temperature"] == 0


def test_another_token_than_the_client_has_ends_the_answer() -> None:
    fields = {"prompt": "x", "max_tokens": 30, "temperature": 0, "stream": True, "presence_penalty": 1}
    conversation = opened(vllm(), COMPLETIONS, fields)
    call = conversation.request()
    for _, event in zip(range(9), WireEngine().events(call.path, call.body), strict=False):
        conversation.take(event)
    resumption = conversation.resume(vllm())
    assert resumption.way is Way.REPLAY
    other = json.dumps(fields | {"prompt": "y", "return_token_ids": True}).encode()
    with pytest.raises(NotResumableError, match="other tokens"):
        list(map(conversation.take, WireEngine(2).events(COMPLETIONS, other)))
    conversation.refuse("other tokens")
    last = conversation.resume(vllm())
    assert (last.way, last.request, last.reason) == (Way.IMPOSSIBLE, None, "other tokens")


def test_a_dying_engines_last_words_are_not_for_the_client() -> None:
    conversation = opened(vllm(), COMPLETIONS, {"prompt": "x", "temperature": 0, "stream": True})
    error = {"error": {"message": "EngineCore encountered an issue. See stack trace", "code": 500}}
    aborts = {"choices": [{"index": 0, "text": "", "finish_reason": "abort"}]}
    for words, turn in ((error, Turn.DIED), (aborts, Turn.ABORTED)):
        taken = conversation.take(json.dumps(words).encode())
        assert (taken.out, taken.turn) == (b"", turn)
    assert conversation.resume(vllm()).way is Way.FRESH


def test_an_engine_that_aborts_and_is_believed_ends_the_answer() -> None:
    conversation = opened(vllm(), COMPLETIONS, {"prompt": "x", "temperature": 0, "stream": True})
    aborts = json.dumps({"choices": [{"index": 0, "text": "a", "finish_reason": "abort"}]}).encode()
    assert conversation.take(aborts).turn is Turn.ABORTED
    conversation.believe()
    assert json.loads(conversation.take(aborts).out[6:])["choices"][0]["finish_reason"] == "abort"
    assert conversation.remainder() == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("body", "turn"),
    [
        (b'{"choices":[{"text":"abort","finish_reason":"stop"}]}', Turn.COMPLETE),
        (b'{"choices":[{"text":"abort","finish_reason":"stop"},{"finish_reason":"abort"}]}', Turn.ABORTED),
        (b'{"choices":[{"text":"\\"abort\\"","finish_reason":"abort"}]}', Turn.ABORTED),
        (b'["abort"]', Turn.COMPLETE),
        (b'{"choices":["abort"]}', Turn.COMPLETE),
        (b'{"choices":[{"finish_reason":"abort"', Turn.COMPLETE),
        (b"", Turn.COMPLETE),
    ],
)
def test_a_whole_answer_is_judged_by_how_it_ended(body: bytes, turn: Turn) -> None:
    assert opened(vllm(), COMPLETIONS, {"prompt": "x", "stop": "q"}).judge(body) is turn


def test_an_engines_own_error_is_for_the_client() -> None:
    conversation = opened(vllm(), COMPLETIONS, {"prompt": "x", "temperature": 0, "stream": True})
    taken = conversation.take(b'{"error":{"message":"no","code":400}}')
    assert json.loads(taken.out[6:])["error"]["message"] == "no"
    assert conversation.take(b"[DONE]").turn is Turn.COMPLETE


@pytest.mark.parametrize("cut", range(1, 9))
def test_tool_calls_and_reasoning_are_replayed_with_the_ids_the_client_has(cut: int) -> None:
    tool = {"index": 0, "type": "function"}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"reasoning": "it wants"},
        {"reasoning": " the time"},
        {"content": "Well"},
        {"tool_calls": [tool | {"id": "ID", "function": {"name": "clock", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"zone"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ':"é"}'}}]},
        {"tool_calls": [tool | {"index": 1, "id": "ID2", "function": {"name": "sum", "arguments": "{}"}}]},
    ]

    def events(life: int) -> list[bytes]:
        found = []
        for index, delta in enumerate(deltas):
            delta = json.loads(json.dumps(delta).replace("ID", f"call-{life}-"))
            finish = "tool_calls" if index == len(deltas) - 1 else None
            ids = [index] if index else None
            choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish, "token_ids": ids}
            found.append(json.dumps({"id": f"c{life}", "created": life, "choices": [choice]}).encode())
        return [*found, b"[DONE]"]

    fields = MESSAGES | {"tools": [{"type": "function"}], "temperature": 0, "stream": True, "max_tokens": 50}
    conversation = opened(vllm(), CHAT, fields)
    out = b"".join(conversation.take(event).out for event in events(1)[:cut])
    assert conversation.resume(vllm()).way is (Way.FRESH if cut == 1 else Way.REPLAY)
    out += b"".join(conversation.take(event).out for event in events(2))
    merged: dict[str, str] = {}
    for line in out.split(b"\n\n")[:-2]:
        chunk = json.loads(line[6:])
        assert chunk["id"] == "c1"
        delta = chunk["choices"][0]["delta"]
        for name in ("role", "reasoning", "content"):
            merged[name] = merged.get(name, "") + (delta.get(name) or "")
        for call in delta.get("tool_calls", ()):
            for name, value in [("id", call.get("id", "")), *call["function"].items()]:
                key = f"{call['index']}.{name}"
                merged[key] = merged.get(key, "") + value
    lives = (1 if cut > 4 else 2, 1 if cut > 7 else 2)
    assert merged == {
        "role": "assistant",
        "reasoning": "it wants the time",
        "content": "Well",
        "0.id": f"call-{lives[0]}-",
        "0.name": "clock",
        "0.arguments": '{"zone":"é"}',
        "1.id": f"call-{lives[1]}-2",
        "1.name": "sum",
        "1.arguments": "{}",
    }


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"stream": "yes"}', b'{"stream_options": 3}', b"[" * 100_000])
def test_what_is_no_request_is_not_understood(body: bytes) -> None:
    assert VllmDialect().open(COMPLETIONS, body, SEED) is None
    assert VllmDialect().open("/v1/embeddings", body, SEED) is None


UNREADABLE = [b"", b"[]", b"nonsense", b'{"choices":3}', b'{"choices":[{"token_ids":[1.5]}]}']


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("data", UNREADABLE)
def test_events_that_cannot_be_read_pass_and_end_the_protection(data: bytes, before: int) -> None:
    conversation = opened(vllm(), COMPLETIONS, {"prompt": "x", "max_tokens": 9, "temperature": 0, "stream": True})
    call = conversation.request()
    for _, event in zip(range(before), WireEngine().events(call.path, call.body), strict=False):
        conversation.take(event)
    assert conversation.take(data).out == b"data: " + data + b"\n\n"
    assert conversation.resume(vllm()).way is Way.IMPOSSIBLE


@pytest.mark.parametrize("data", [*UNREADABLE, b"[DONE]"])
def test_what_is_put_together_lacks_nothing_that_could_not_be_read(data: bytes) -> None:
    fields = {"prompt": "x", "max_tokens": 9, "temperature": 0}
    conversation = opened(vllm(), COMPLETIONS, fields)
    call = conversation.request()
    for _, event in zip(range(3), WireEngine().events(call.path, call.body), strict=False):
        conversation.take(event)
    with pytest.raises(NotResumableError) as raised:
        conversation.take(data)
    conversation.refuse(raised.value.problem)
    resumption = conversation.resume(vllm())
    assert resumption.way is Way.CONTINUE
    assert resumption.request is not None
    for event in WireEngine(2).events(resumption.request.path, resumption.request.body):
        conversation.take(event)
    untouched = json.loads(answered(COMPLETIONS, fields)[0])
    assert json.loads(conversation.whole())["choices"] == untouched["choices"]
    conversation.refuse("once more")
    last = conversation.resume(vllm())
    assert (last.way, last.reason) == (Way.IMPOSSIBLE, raised.value.problem)


@pytest.mark.parametrize("more", [{}, {"presence_penalty": 1}, {"temperature": 1}])
@pytest.mark.parametrize("before", [0, 1, 4])
def test_what_is_too_long_to_keep_is_forgotten_and_not_resumed(before: int, more: dict[str, Any]) -> None:
    fields = {"prompt": "x", "max_tokens": 9, "temperature": 0, "stream": True} | more
    conversation = opened(vllm(), COMPLETIONS, fields)
    call = conversation.request()
    begins_with = conversation.journal_bytes
    events = WireEngine().events(call.path, call.body)
    for _ in range(before):
        conversation.take(next(events))
    conversation.forget()
    out = b"".join(conversation.take(next(events)).out for _ in range(2))
    assert out
    assert conversation.journal_bytes == begins_with
    resumption = conversation.resume(vllm())
    assert (resumption.way, resumption.request) == (Way.IMPOSSIBLE, None)
    assert "too long" in resumption.reason


def test_an_answer_that_the_engine_ended_with_its_error_is_not_begun_again() -> None:
    conversation = opened(vllm(), COMPLETIONS, {"prompt": "x", "temperature": 0, "stream": True})
    conversation.take(b'{"error":{"message":"no","code":400}}')
    assert conversation.resume(vllm()).way is Way.IMPOSSIBLE


@pytest.mark.parametrize(("more", "start"), [({}, 9), ({"presence_penalty": 1}, 0)], ids=["continue", "replay"])
def test_a_place_is_where_the_present_engine_is(more: dict[str, Any], start: int) -> None:
    fields = {"prompt": "x", "max_tokens": 30, "temperature": 0, "stream": True} | more
    conversation = opened(vllm(), COMPLETIONS, fields)
    call = conversation.request()
    for _, event in zip(range(9), WireEngine().events(call.path, call.body), strict=False):
        conversation.take(event)
    assert (conversation.place, conversation.token_count) == (9, 9)
    resumption = conversation.resume(vllm())
    assert start - 4 < conversation.place <= start, "less than a character is generated again"
    before = conversation.place
    assert resumption.request is not None
    for _, event in zip(range(6), WireEngine(2).events(call.path, resumption.request.body), strict=False):
        conversation.take(event)
    assert conversation.place == before + 6


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_without_a_seed_a_sampled_answer_is_not_repeated(seed: int | None) -> None:
    fields = {"prompt": "x", "max_tokens": 9, "stream": True}
    conversation = vllm().open(COMPLETIONS, json.dumps(fields | {"seed": seed}).encode(), None)
    assert conversation is not None
    call = conversation.request()
    assert json.loads(call.body)["seed"] == seed
    for _, event in zip(range(3), WireEngine().events(call.path, call.body), strict=False):
        conversation.take(event)
    assert conversation.resume(vllm()).way is (Way.IMPOSSIBLE if seed is None else Way.REPLAY)
