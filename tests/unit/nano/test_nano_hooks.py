from __future__ import annotations

from nano_driving import PAGE_TOKENS, DictHooks, drain, generate, prompt, request, serve, small_engine
from nano_engine.blocks import ROOT_PARENT, PagePool, page_key
from nano_engine.cache import KVCache


def filled_store(tokens: list[int], max_tokens: int = 12) -> tuple[dict[bytes, bytes], list[int]]:
    """The pages one engine left behind, and what it answered."""
    hooks = DictHooks()
    answer = generate(small_engine(hooks=hooks), tokens, max_tokens)
    return hooks.stored, answer


def test_every_full_page_is_announced_once_with_its_chain() -> None:
    hooks = DictHooks()
    tokens = prompt(20)
    full = tokens + generate(small_engine(hooks=hooks), tokens, 20)
    parent = ROOT_PARENT
    for index, page in enumerate(hooks.completed):
        assert page.parent == parent
        assert list(page.tokens) == full[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS]
        assert page.key == page_key(parent, page.tokens)
        parent = page.key
    # The very last token was sampled but never run, so it has no KV.
    assert len(hooks.completed) == 39 // PAGE_TOKENS


def test_a_page_is_allocated_before_it_is_written_and_complete_before_the_step_is_done() -> None:
    hooks = DictHooks()
    engine = small_engine(hooks=hooks)
    engine.submit(request(prompt(PAGE_TOKENS), 1))
    engine.step()
    assert hooks.calls == ["pages_allocated", "page_complete", "step_done"]
    assert hooks.allocated == [hooks.completed[0].page_id]


def test_loaded_pages_give_the_same_tokens_and_are_not_announced_again() -> None:
    stored, expected = filled_store(prompt(60))
    hooks = DictHooks(stored)
    engine = small_engine(hooks=hooks)
    one = request(prompt(60))
    assert serve(engine, [one]) == [expected]
    assert one.cached_tokens == 56
    assert engine.computed_prompt_tokens == 4
    assert all(page.tokens[0] != prompt(60)[0] for page in hooks.completed)
    assert hooks.calls[:2] == ["pages_allocated", "load"]


def test_a_torn_page_changes_the_answer_so_that_tests_would_notice() -> None:
    stored, expected = filled_store(prompt(60), 30)
    torn = {key: page[: len(page) // 2] + bytes(len(page) // 2) for key, page in stored.items()}
    assert generate(small_engine(hooks=DictHooks(torn)), prompt(60), 30) != expected


def test_others_run_while_one_waits_for_its_load() -> None:
    stored, expected = filled_store(prompt(60))
    engine = small_engine(hooks=DictHooks(stored, delay=50))
    slow, quick = request(prompt(60)), request(prompt(10, seed=1))
    engine.submit(slow)
    engine.submit(quick)
    for _ in range(30):
        engine.step()
    assert quick.generated_count == 12
    assert slow.generated_count == 0
    drain(engine)
    assert slow.tokens[60:] == expected


def test_what_a_load_failed_to_bring_is_recomputed() -> None:
    for good in (0, 3):
        stored, expected = filled_store(prompt(60))
        hooks = DictHooks(stored)
        hooks.good_limit = good
        engine = small_engine(hooks=hooks)
        one = request(prompt(60))
        assert serve(engine, [one]) == [expected]
        assert one.cached_tokens == good * PAGE_TOKENS
        assert engine.pool.held_count == 0


def test_pages_in_doubt_are_not_touched_until_the_plugin_gives_them_back() -> None:
    stored, expected = filled_store(prompt(60))
    hooks = DictHooks(stored)
    hooks.good_limit, hooks.in_doubt = 3, True
    engine = small_engine(hooks=hooks)
    assert generate(engine, prompt(60)) == expected
    assert len(hooks.quarantined) == 4
    assert engine.pool.held_count == 4
    engine.pool.release(hooks.quarantined)
    assert engine.pool.held_count == 0


def test_an_aborted_load_in_doubt_frees_only_what_is_certain() -> None:
    stored, _ = filled_store(prompt(60))
    hooks = DictHooks(stored)
    hooks.good_limit, hooks.in_doubt = 3, True
    engine = small_engine(hooks=hooks)
    one = request(prompt(60))
    engine.submit(one)
    engine.step()
    engine.abort(one.request_id)
    drain(engine)
    assert engine.pool.held_count == len(hooks.quarantined) == 4


def test_an_aborted_load_keeps_its_pages_until_it_has_ended() -> None:
    stored, _ = filled_store(prompt(60))
    engine = small_engine(hooks=DictHooks(stored, delay=3))
    one = request(prompt(60))
    engine.submit(one)
    engine.step()
    assert engine.abort(one.request_id) is not None
    assert engine.abort(one.request_id) is None
    assert engine.pool.held_count == 7
    drain(engine)
    assert engine.pool.held_count == 0


def test_a_load_that_a_reset_overtook_is_thrown_away() -> None:
    stored, expected = filled_store(prompt(60))
    engine = small_engine(hooks=DictHooks(dict(stored), delay=3))
    one = request(prompt(60))
    engine.submit(one)
    engine.step()
    engine.reset_prefix_cache()
    engine.hooks.stored.update({key: bytes(len(page)) for key, page in stored.items()})  # type: ignore[attr-defined]
    engine.hooks.lookup = lambda keys, have: 0  # type: ignore[method-assign]
    engine.scheduler._lookup = engine.hooks.lookup
    drain(engine)
    assert one.tokens[60:] == expected
    assert one.cached_tokens == 0


def test_pages_restored_eagerly_serve_the_first_request() -> None:
    stored, expected = filled_store(prompt(60))

    class EagerHooks(DictHooks):
        def ready(self, cache: KVCache, blocks: PagePool) -> None:
            super().ready(cache, blocks)
            one = request(prompt(60))
            one.extend_keys(PAGE_TOKENS)
            taken = blocks.take(len(one.keys))
            for index, (page_id, key) in enumerate(zip(taken, one.keys, strict=True)):
                cache.page(page_id)[:] = stored[key]
                blocks.register(page_id, key, one.parent_of(index), one.page_slice(index, PAGE_TOKENS))
            blocks.release(taken)

    engine = small_engine(hooks=EagerHooks())
    assert engine.pool.free_count == engine.pool.page_count
    one = request(prompt(60))
    assert serve(engine, [one]) == [expected]
    assert one.cached_tokens == 56
