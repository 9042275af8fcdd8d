"""The table of docs/streams.md, row by row: which way a request has, and that the page names each field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rekindle_plugins.contract.dialect import Way
from rekindle_plugins.openai.fields import IN_THE_PROMPT, KEPT, RULES, Rule, plan
from rekindle_plugins.openai.server_settings import ServerSettings

PAGE = (Path(__file__).parents[3] / "docs" / "streams.md").read_text()
GREEDY: dict[str, Any] = {"model": "m", "prompt": "a", "temperature": 0}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 5, "temperature": 0}
SOME: dict[str, Any] = {
    "presence_penalty": 0.5,
    "frequency_penalty": -1,
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function"}],
    "functions": [{"name": "f"}],
    "logprobs": True,
    "stop": ["\n"],
    "bad_words": ["no"],
    "n": 2,
    "best_of": 2,
    "echo": True,
    "include_reasoning": False,
    "parallel_tool_calls": False,
    "spaces_between_special_tokens": False,
    "kv_transfer_params": {"do_remote_decode": True},
    "ec_transfer_params": {"a": 1},
}
"""A value of each field that is not neutral; "x" for the others."""


def way(fields: dict[str, Any], *, is_chat: bool = False, samples: bool = False, has_seed: bool = True) -> Way:
    return plan(fields, is_chat=is_chat, samples=samples, has_seed=has_seed).way


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.field)
def test_each_field_of_the_table_has_its_way_and_its_row(rule: Rule) -> None:
    found = plan(GREEDY | {rule.field: SOME.get(rule.field, "x")}, is_chat=False, samples=False, has_seed=True)
    assert found.way is rule.way
    assert found.reason == f"{rule.field}: {rule.reason}"
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and f"`{rule.field}`" in line]
    assert any(f"| {rule.way.value} |" in row for row in rows), f"docs/streams.md has no row for {rule.field}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.field)
def test_a_neutral_value_changes_nothing(rule: Rule) -> None:
    for neutral in (*rule.neutral, None):
        assert way(GREEDY | {rule.field: neutral}) is Way.CONTINUE


@pytest.mark.parametrize("field", sorted(KEPT | IN_THE_PROMPT))
def test_a_harmless_field_changes_nothing(field: str) -> None:
    assert way({field: 1} | GREEDY) is Way.CONTINUE
    assert field not in {rule.field for rule in RULES}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (CHAT, Way.CONTINUE),
        (CHAT | {"max_tokens": None, "max_completion_tokens": 7}, Way.CONTINUE),
        (CHAT | {"max_tokens": None}, Way.REPLAY),
        (CHAT | {"max_tokens": True}, Way.REPLAY),
        (CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, Way.CONTINUE),
        (CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, Way.REPLAY),
        (CHAT | {"messages": [{"role": "user", "content": ["a"]}]}, Way.REPLAY),
        (CHAT | {"something_new": 1}, Way.REPLAY),
    ],
)
def test_a_chat_needs_a_limit_and_text(fields: dict[str, Any], expected: Way) -> None:
    assert way(fields, is_chat=True) is expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", Way.CONTINUE),
        ([1, 2], Way.CONTINUE),
        ([[1], [2]], Way.REPLAY),
        (["a", "b"], Way.REPLAY),
        ([], Way.REPLAY),
        (None, Way.REPLAY),
    ],
)
def test_a_completion_needs_one_prompt(prompt: Any, expected: Way) -> None:
    assert way(GREEDY | {"prompt": prompt}) is expected


def test_sampling_is_replayed_where_a_seed_is_repeated_and_impossible_elsewhere() -> None:
    assert way(GREEDY | {"temperature": 1}, samples=True) is Way.REPLAY
    assert way(GREEDY | {"temperature": 1}, samples=True, has_seed=False) is Way.IMPOSSIBLE
    assert way(GREEDY | {"temperature": 1, "stop": "x"}, samples=True, has_seed=False) is Way.IMPOSSIBLE


@pytest.mark.parametrize(
    ("server", "row", "expected"),
    [
        (ServerSettings((("repetition_penalty", 1.1), ("top_p", 0.9))), "sets `repetition_penalty`", Way.CONTINUE),
        (ServerSettings((("top_k", 5), ("min_p", 0.1))), "sets `repetition_penalty`", Way.CONTINUE),
        (ServerSettings((("max_tokens", 9),), 9, 64), "sets `max_new_tokens`", Way.CONTINUE),
        (ServerSettings(context_tokens=64), "has only its context", Way.CONTINUE),
        (ServerSettings((("presence_penalty", 0.5),)), "sets `presence_penalty` or `frequency_penalty`", Way.REPLAY),
        (ServerSettings((("frequency_penalty", 1),)), "sets `presence_penalty` or `frequency_penalty`", Way.REPLAY),
        (ServerSettings((("brand_new", 1),)), "sets something that is not named here", Way.REPLAY),
        (ServerSettings(has_logits_processors=True), "has logits processors of its own", Way.REPLAY),
        (None, "has not told", Way.REPLAY),
    ],
)
def test_what_the_server_sets_has_its_way_and_its_row(server: ServerSettings | None, row: str, expected: Way) -> None:
    for fields, is_chat in ((GREEDY, False), (CHAT, True)):
        assert plan(fields, is_chat=is_chat, samples=False, has_seed=True, server=server).way is expected
    (line,) = [line for line in PAGE.splitlines() if line.startswith("|") and row in line]
    assert f"| {expected.value} |" in line


def test_a_request_that_names_a_field_is_not_silent_about_it() -> None:
    server = ServerSettings((("presence_penalty", 0.5),))
    said = GREEDY | {"presence_penalty": 0}
    assert plan(said, is_chat=False, samples=False, has_seed=True, server=server).way is Way.CONTINUE


def test_a_chat_without_a_limit_has_the_servers() -> None:
    server = ServerSettings((("max_tokens", 9),), 20, 64)
    silent = {name: value for name, value in CHAT.items() if name != "max_tokens"}
    assert plan(silent, is_chat=True, samples=False, has_seed=True, server=server).way is Way.CONTINUE
    cut = silent | {"truncate_prompt_tokens": 4}
    assert plan(cut, is_chat=True, samples=False, has_seed=True, server=server).way is Way.REPLAY
    assert [server.limit(asked, 10) for asked in (None, 5, 30)] == [9, 5, 20]
    assert [server.limit(asked, 60) for asked in (None, 3, 30)] == [4, 3, 4]
    assert ServerSettings().limit(None, 10) is None
    assert ServerSettings(context_tokens=64).limit(None, 10) == 54


def test_a_prompt_that_came_from_a_prefill_engine_is_a_prompt_like_any_other() -> None:
    params = {"do_remote_prefill": True, "remote_block_ids": [[1]]}
    assert way(GREEDY | {"kv_transfer_params": params}) is Way.CONTINUE
    assert way(GREEDY | {"kv_transfer_params": params, "stop": "x"}) is Way.REPLAY
    assert way(GREEDY | {"kv_transfer_params": params | {"do_remote_prefill": False}}) is Way.IMPOSSIBLE


def test_the_worst_field_decides() -> None:
    assert way(GREEDY | {"stop": "x", "kv_transfer_params": {"a": 1}}) is Way.IMPOSSIBLE
