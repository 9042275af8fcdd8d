from __future__ import annotations

import mmap
import random
from pathlib import Path

import numpy as np
import pytest
from nano_driving import PAGE_TOKENS, DictHooks, drain, generate, prompt, request, serve, small_engine
from nano_engine.cache import FloatArray
from nano_engine.engine import Engine, EngineConfig
from nano_engine.model import WeightsError, save_weights
from nano_engine.request import Finish, RequestError, Status


def kv_of(engine: Engine, tokens: list[int]) -> FloatArray:
    """The KV the engine holds for the full pages of `tokens`, copied."""
    one = request(tokens)
    one.extend_keys(PAGE_TOKENS)
    pages = engine.pool.match(one.keys)
    assert len(pages) == len(one.keys)
    engine.pool.release(pages)
    return np.array(engine.cache.array[pages])


def test_chunking_changes_no_bit_of_kv_and_no_token() -> None:
    tokens = prompt(101)
    engines = [small_engine(step_tokens=budget) for budget in (1, 5, 8, 33, 256)]
    answers = [generate(engine, tokens, 30) for engine in engines]
    caches = [kv_of(engine, tokens + answers[0][:-1]) for engine in engines]
    for answer, kv in zip(answers, caches, strict=True):
        assert answer == answers[0]
        assert kv.tobytes() == caches[0].tobytes()


def test_company_in_the_batch_changes_no_token() -> None:
    prompts = [prompt(length, seed=length) for length in (3, 8, 20, 41, 64)]
    alone = [generate(small_engine(), tokens, 20) for tokens in prompts]
    assert serve(small_engine(step_tokens=24), [request(tokens, 20) for tokens in prompts]) == alone


def test_preemption_changes_no_token() -> None:
    prompts = [prompt(40, seed=seed) for seed in range(6)]
    alone = [generate(small_engine(), tokens, 40) for tokens in prompts]
    engine = small_engine(pages=24, step_tokens=64)
    assert serve(engine, [request(tokens, 40) for tokens in prompts]) == alone
    assert engine.scheduler.counts.preemptions > 0
    assert engine.pool.held_count == 0


def test_answers_depend_on_every_page_of_the_prompt() -> None:
    tokens = prompt(96)
    answer = generate(small_engine(), tokens, 60)
    assert len(set(answer)) > 15
    for index in range(0, 96, PAGE_TOKENS):
        changed = list(tokens)
        changed[index] ^= 1
        assert generate(small_engine(), changed, 60) != answer


def test_a_prefix_hit_gives_the_same_tokens_for_less_work() -> None:
    engine = small_engine()
    tokens = prompt(50)
    cold = generate(engine, tokens)
    computed = engine.computed_prompt_tokens
    again = request(tokens)
    assert serve(engine, [again]) == [cold]
    assert again.cached_tokens == 48
    assert engine.computed_prompt_tokens - computed == 2


def test_a_fully_cached_prompt_still_computes_its_last_page() -> None:
    engine = small_engine()
    cold = generate(engine, prompt(48))
    again = request(prompt(48))
    assert serve(engine, [again]) == [cold]
    assert again.cached_tokens == 40


def test_generated_tokens_are_cached_for_the_next_turn() -> None:
    engine = small_engine()
    tokens = prompt(30)
    turn = tokens + generate(engine, tokens, 20)
    following = request(turn)
    serve(engine, [following])
    assert following.cached_tokens == 48


def test_salts_keep_tenants_apart() -> None:
    engine = small_engine()
    plain = generate(engine, prompt(40))
    salted = request(prompt(40), cache_salt="other")
    assert serve(engine, [salted]) == [plain]
    assert salted.cached_tokens == 0


def test_eviction_makes_room_and_costs_only_a_recompute() -> None:
    engine = small_engine(pages=16)
    first = generate(engine, prompt(60))
    generate(engine, prompt(100, seed=1))
    again = request(prompt(60))
    assert serve(engine, [again]) == [first]
    assert again.cached_tokens is not None
    assert again.cached_tokens < 56


def test_pages_in_shared_memory_are_what_the_model_wrote() -> None:
    engine = small_engine()
    generate(engine, prompt(50))
    with mmap.mmap(engine.cache.fd, engine.cache.total_bytes, prot=mmap.PROT_READ) as other:
        page_bytes = engine.cache.page_bytes
        for page in engine.pool.cached():
            start = page.page_id * page_bytes
            assert other[start : start + page_bytes] == engine.cache.array[page.page_id].tobytes()
            assert any(other[start : start + page_bytes])


def test_the_shared_memory_cannot_shrink_under_a_reader() -> None:
    with pytest.raises(PermissionError):
        __import__("os").ftruncate(small_engine().cache.fd, 0)


def test_a_stop_token_ends_the_answer() -> None:
    answer = generate(small_engine(), prompt(20), 30)
    stop = answer[10]
    stopped = generate(small_engine(), prompt(20), 30, stop_token_ids=frozenset([stop]))
    assert stopped == answer[: answer.index(stop) + 1]


def test_abort_frees_the_pages_whether_running_or_waiting() -> None:
    engine = small_engine(max_running=1)
    running, waiting = request(prompt(40), 100), request(prompt(40, seed=1), 100)
    engine.submit(running)
    engine.submit(waiting)
    engine.step()
    assert (running.status, waiting.status) == (Status.RUNNING, Status.WAITING)
    for one in (waiting, running):
        output = engine.abort(one.request_id)
        assert output is not None
        assert output.finish is Finish.ABORT
    assert engine.abort(running.request_id) is None
    assert (engine.has_requests, engine.pool.held_count) == (False, 0)


def test_a_reset_forgets_the_cache_and_running_requests_start_over() -> None:
    hooks = DictHooks()
    engine = small_engine(hooks=hooks)
    expected = generate(small_engine(), prompt(40), 30)
    running = request(prompt(40), 30)
    engine.submit(running)
    for _ in range(10):
        engine.step()
    engine.reset_prefix_cache()
    assert engine.pool.free_count == engine.pool.blank_count == engine.pool.page_count
    assert hooks.calls[-1] == "cache_reset"
    drain(engine)
    assert running.tokens[40:] == expected


@pytest.mark.parametrize(
    ("tokens", "max_tokens", "message"),
    [
        ([], 1, "empty"),
        ([256], 1, "token id 256"),
        ([-1], 1, "token id -1"),
        ([1], 0, "max_tokens must be at least 1"),
        ([1] * 500, 13, "exceed the context of 512"),
    ],
)
def test_impossible_requests_are_refused(tokens: list[int], max_tokens: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        small_engine().submit(request(tokens, max_tokens))


def test_saved_weights_give_the_same_model_and_others_are_refused(tmp_path: Path) -> None:
    engine = small_engine()
    path = tmp_path / "weights.npz"
    save_weights(path, engine.weights)
    loaded = Engine(EngineConfig(seed=99, weights=path, pages=64, page_tokens=PAGE_TOKENS))
    assert loaded.model.digest == engine.model.digest != Engine(EngineConfig(seed=99)).model.digest
    assert generate(loaded, prompt(20)) == generate(engine, prompt(20))
    path.write_bytes(b"not weights")
    with pytest.raises(WeightsError):
        Engine(EngineConfig(weights=path))


def test_random_traffic_with_aborts_and_resets_never_changes_a_token() -> None:
    source = random.Random(7)
    prompts = [prompt(source.randrange(1, 60), seed=seed % 5) for seed in range(24)]
    alone = [generate(small_engine(), tokens, 15) for tokens in prompts]
    engine = small_engine(pages=28, step_tokens=40, max_running=5, hooks=DictHooks(delay=1))
    requests = [request(tokens, 15) for tokens in prompts]
    aborted = set(source.sample(range(24), 6))
    for index, one in enumerate(requests):
        engine.submit(one)
        for _ in range(source.randrange(4)):
            engine.step()
        if index in aborted:
            engine.abort(one.request_id)
        if index == 12:
            engine.reset_prefix_cache()
    drain(engine)
    assert engine.pool.held_count == 0
    for index, (one, expected) in enumerate(zip(requests, alone, strict=True)):
        if index not in aborted:
            assert one.tokens[one.prompt_count :] == expected
