"""A prefill and a decode engine, NIXL between them, a sidecar beside each: either one dies, or both.

The two are started once for all tests. Every test leaves them running, and has prompts of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import _pods
from disaggregated_driving import NIXL, Pair, Side, composed
from driving import until
from driving.arena import stored_pages
from driving.process import proceed, stop_and_wait
from vllm_driving import ANSWER_S, BLOCK, REKINDLE, Launcher, Stream, complete_tokens, tokens_of

pytestmark = [pytest.mark.disaggregated, pytest.mark.timeout(600)]

PROMPT_TOKENS = 500
LONG = 400
"""Tokens of an answer that takes its time."""
QUESTIONS = 40
"""More prompt tokens than the proxy's questions to a fresh engine have."""


@pytest.fixture(scope="module")
def engines(launcher: Launcher, llama: Path) -> Iterator[Pair]:
    """Both orders of the two connectors, and both single roles."""
    if not os.environ.get("NIXL_PATH"):
        pytest.fail("NIXL_PATH names no folder with nixl for the engines")
    prefill = composed(REKINDLE, NIXL, role="kv_producer")
    decode = composed(NIXL, REKINDLE, role="kv_consumer")
    with Pair(launcher, llama, prefill, decode) as pair:
        _pods.extend(side.pod for side in (pair.prefill, pair.decode))
        yield pair
        for side in (pair.prefill, pair.decode):
            _pods.remove(side.pod)


@pytest.fixture
def pair(engines: Pair) -> Pair:
    return engines.start()


class Asked:
    """A call on a thread of its own."""

    def __init__(self, work: Callable[..., Any], *args: Any) -> None:
        self._args = (work, *args)
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        work, *args = self._args
        try:
            self.result = work(*args)
        except BaseException as error:
            self.error = error

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def finish(self) -> Any:
        self._thread.join(ANSWER_S)
        assert self.is_over, "no answer"
        assert self.error is None, repr(self.error)
        return self.result


def reference(pair: Pair, prompt: list[int], count: int) -> list[int]:
    """What an engine that nothing happens to answers, from pages of its own."""
    return pair.decode.engine.ask(prompt, count, cache_salt="reference").tokens


def computed(side: Side) -> int:
    """Prompt tokens that this start of an engine had no pages of."""
    engine = side.engine
    return engine.metric("prompt_tokens_total") - engine.metric("prompt_tokens_cached_total")


def cut_in_the_middle(stream: Stream, *sides: Side) -> None:
    stream.when(20)
    for side in sides:
        side.engine.kill()
    assert 20 <= len(stream.tokens) < LONG, "it was to be killed in the middle"


def test_a_prompt_is_handed_over_and_its_pages_are_kept_by_both_sides(pair: Pair) -> None:
    prompt = tokens_of(1, PROMPT_TOKENS)
    expected = reference(pair, prompt, 40)
    hits = pair.decode.engine.metric("external_prefix_cache_hits_total")
    params = pair.prefill.hand_over(prompt)
    assert params["remote_num_tokens"] == PROMPT_TOKENS
    answer = pair.decode.stream(prompt, 40, kv_transfer_params=params).finish()
    assert answer.tokens == expected
    assert pair.decode.engine.metric("external_prefix_cache_hits_total") - hits == PROMPT_TOKENS
    pages = [tuple(prompt[start : start + BLOCK]) for start in range(0, complete_tokens(PROMPT_TOKENS), BLOCK)]
    for side in (pair.prefill, pair.decode):
        side.pod.when_stored()
    # Byte by byte what the prefill engine computed: the page was not copied before all of it had arrived. The decode
    # engine's own computation (the reference) has another salt, and so another key.
    computed = {page.tokens: page.data for page in stored_pages(pair.prefill.pod.store_dir).values()}
    arrived = [(page.tokens, page.data) for page in stored_pages(pair.decode.pod.store_dir).values()]
    for page in pages:
        assert (page, computed[page]) in arrived


def test_a_decode_engine_killed_in_mid_stream_goes_on_and_the_prefill_engine_is_not_asked_again(pair: Pair) -> None:
    prompt = tokens_of(2, PROMPT_TOKENS)
    expected = reference(pair, prompt, LONG)
    stream = pair.decode.stream(prompt, LONG, kv_transfer_params=pair.prefill.hand_over(prompt))
    stream.when(1)
    before = pair.prefill.engine.metric("prompt_tokens_total")
    cut_in_the_middle(stream, pair.decode)
    seen = len(stream.tokens)
    pair.start()
    assert stream.finish().tokens == expected
    assert pair.prefill.engine.metric("prompt_tokens_total") == before
    assert pair.decode.engine.metric("external_prefix_cache_hits_total") == 0
    assert pair.decode.sidecar.recovery().pages_rejected == {}
    again = computed(pair.decode)
    assert again < BLOCK + QUESTIONS, f"{again} tokens of {PROMPT_TOKENS} and {seen} were computed again"


def test_a_request_held_back_while_its_engine_restarts_fetches_no_page_that_may_be_gone(pair: Pair) -> None:
    prompt = tokens_of(3, PROMPT_TOKENS)
    expected = reference(pair, prompt, 40)
    params = pair.prefill.hand_over(prompt)
    pair.decode.engine.kill()
    began_s = time.monotonic()
    stream = pair.decode.stream(prompt, 40, kv_transfer_params=params)
    until("it to be held for long", lambda: time.monotonic() > began_s + 6.0, 30.0)
    pair.start()
    assert stream.finish().tokens == expected
    assert pair.decode.engine.metric("external_prefix_cache_hits_total") == 0


def test_a_prefill_engine_that_died_before_hands_restored_pages_over_from_another_address(pair: Pair) -> None:
    prompt = tokens_of(4, PROMPT_TOKENS)
    expected = reference(pair, prompt, 40)
    old = pair.prefill.hand_over(prompt)
    pair.prefill.pod.when_stored()
    pair.prefill.engine.kill()
    asked = Asked(pair.prefill.hand_over, prompt)
    pair.start()
    params = asked.finish()
    assert params["remote_port"] != old["remote_port"]
    assert params["remote_engine_id"] != old["remote_engine_id"]
    assert computed(pair.prefill) < PROMPT_TOKENS - complete_tokens(PROMPT_TOKENS) + QUESTIONS
    hits = pair.decode.engine.metric("external_prefix_cache_hits_total")
    assert pair.decode.stream(prompt, 40, kv_transfer_params=params).finish().tokens == expected
    assert pair.decode.engine.metric("external_prefix_cache_hits_total") - hits == PROMPT_TOKENS


def test_a_prefill_engine_killed_at_its_work_answers_from_what_it_had_got_done(pair: Pair) -> None:
    for seed in range(50, 60):
        prompt = tokens_of(seed, 3900)
        stored = pair.prefill.pages
        asked = Asked(pair.prefill.hand_over, prompt)
        until("some of it", lambda n=stored + 8, a=asked: a.is_over or pair.prefill.pages >= n, ANSWER_S)
        pair.prefill.engine.kill()
        if not asked.is_over:
            break
        pair.start()  # it was faster than we are
    else:
        raise AssertionError("it could not be killed at its work")
    pair.start()
    params = asked.finish()
    assert computed(pair.prefill) < len(prompt) - 8 * BLOCK + QUESTIONS
    answer = pair.decode.stream(prompt, 20, kv_transfer_params=params).finish()
    assert answer.tokens == reference(pair, prompt, 20)


@pytest.mark.parametrize("acquainted", [True, False], ids=["acquainted", "strangers"])
def test_a_prefill_engine_that_died_after_the_first_step_does_not_hold_up_the_decode_engine(
    pair: Pair, acquainted: bool
) -> None:
    prompt = tokens_of(6 + acquainted, PROMPT_TOKENS)
    expected = reference(pair, prompt, 40)
    pair.prefill.engine.kill()
    pair.start()  # another life, which the decode engine has not met yet
    if acquainted:
        other = tokens_of(8, PROMPT_TOKENS)
        pair.decode.stream(other, 2, kv_transfer_params=pair.prefill.hand_over(other)).finish()
    params = pair.prefill.hand_over(prompt)
    pair.prefill.engine.kill()
    assert pair.decode.stream(prompt, 40, kv_transfer_params=params).finish().tokens == expected


def test_a_prefill_engine_killed_while_its_pages_are_waited_for_does_not_hold_up_the_decode_engine(pair: Pair) -> None:
    prompt = tokens_of(9, PROMPT_TOKENS)
    expected = reference(pair, prompt, 40)
    pair.prefill.engine.kill()
    pair.start()
    params = pair.prefill.hand_over(prompt)
    frozen = pair.prefill.engine.members()
    for pid in frozen:
        stop_and_wait(pid)
    try:
        stream = pair.decode.stream(prompt, 40, kv_transfer_params=params)
        until("the decode engine to have it", lambda: pair.decode.sidecar.engine().outstanding, ANSWER_S)
        pair.prefill.engine.kill()
    finally:
        for pid in frozen:
            proceed(pid)
    assert stream.finish().tokens == expected


def test_both_die_and_come_back_to_their_stream_and_to_each_other(pair: Pair) -> None:
    prompt = tokens_of(10, PROMPT_TOKENS)
    expected = reference(pair, prompt, LONG)
    old = pair.prefill.hand_over(prompt)
    stream = pair.decode.stream(prompt, LONG, kv_transfer_params=old)
    cut_in_the_middle(stream, pair.prefill, pair.decode)
    pair.start()
    assert stream.finish().tokens == expected
    assert computed(pair.prefill) < QUESTIONS, "the prefill engine was asked again"
    follow_up = [*prompt, *expected]
    params = pair.prefill.hand_over(follow_up)
    assert params["remote_port"] != old["remote_port"]
    answer = pair.decode.stream(follow_up, 20, kv_transfer_params=params).finish()
    assert answer.tokens == reference(pair, follow_up, 20)
