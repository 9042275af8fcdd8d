"""Warm-up requests: which prompts bring stored prefixes back."""

from __future__ import annotations

from collections.abc import Sequence

from rekindle_plugins.client.leader import PlannedPage
from rekindle_plugins.contract.journal import ROOT
from rekindle_plugins.tensorrt_llm.keys import PLAIN_ROOT, chain
from rekindle_plugins.tensorrt_llm.warm_up import prompts_of, warm_up


def pages_of(tokens: Sequence[int], root: bytes = PLAIN_ROOT, size: int = 4) -> list[PlannedPage]:
    keys = chain(root, tokens, size, len(tokens))
    return [
        PlannedPage(key, keys[index - 1] if index else ROOT, 0, tuple(tokens[index * size : (index + 1) * size]))
        for index, key in enumerate(keys)
    ]


def test_each_longest_prefix_is_a_prompt_with_one_token_more() -> None:
    common, left, right = [1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]
    pages = [*pages_of([*common, *left]), *pages_of([*common, *right])[1:]]
    assert prompts_of(pages, 4) == [[*common, *left, 1], [*common, *right, 1]]


def test_salted_broken_and_foreign_chains_are_left_out() -> None:
    salted = pages_of(range(8), root=bytes([7]) * 32)
    orphan = pages_of(range(50, 58))[1:]
    other_size = pages_of(range(90, 98), size=2)
    loop = [PlannedPage(b"a" * 32, b"b" * 32, 0, (1,) * 4), PlannedPage(b"b" * 32, b"a" * 32, 0, (1,) * 4)]
    assert prompts_of([*salted, *orphan, *other_size, *loop], 4) == []


def test_prompts_are_posted_until_nobody_answers() -> None:
    posted = []

    def post(prompt: Sequence[int]) -> None:
        posted.append(list(prompt))
        if prompt[0] >= 2:
            raise OSError("nobody")

    assert warm_up(post, [[0], [2], [1], [3], [4], [5], [6]]) == 2
    assert posted == [[0], [2], [1], [3], [4], [5]]
