"""Where the shim is called: methods of one engine's objects, wrapped in place.

Instance attributes, so that other engines of the process are untouched. The engine's own method runs first or last,
always, and outside the guard: what it returns or raises is what its caller gets.
"""

from __future__ import annotations

from typing import Any

from rekindle_transformers.shim import TransformersShim


def install(shim: TransformersShim) -> None:
    """Hooks the pages and the loop of one processor. The loop, where the shim attaches, comes last: a shim that could
    not be hooked everywhere never does."""
    parts = shim.parts
    _hook_pool(parts.pool, shim)
    _hook_cache(parts.cache, parts.allocator, shim)
    _hook_loop(parts.processor, shim)


def _hook_loop(processor: Any, shim: TransformersShim) -> None:
    prepare_next_batch, update_batch = processor.prepare_next_batch, processor.update_batch

    def prepare() -> bool:
        shim.turn()
        has_work: bool = prepare_next_batch()
        if has_work:
            shim.guard.call(None, shim.step_begins)
        return has_work

    def update() -> None:
        update_batch()
        shim.guard.call(None, shim.step_done)

    processor.prepare_next_batch, processor.update_batch = prepare, update


def _hook_pool(pool: Any, shim: TransformersShim) -> None:
    get_free_blocks, reset = pool.get_free_blocks, pool.reset

    def get_and_raise(index: int, num_blocks: int) -> list[int]:
        blocks: list[int] = get_free_blocks(index, num_blocks)
        shim.guard.call(None, shim.handed_out, blocks)
        return blocks

    def reset_and_keep() -> None:
        reset()
        if shim.is_holding:
            shim.keep_reserved()

    pool.get_free_blocks, pool.reset = get_and_raise, reset_and_keep


def _hook_cache(cache: Any, allocator: Any, shim: TransformersShim) -> None:
    mark_complete_blocks, free_all_requests = allocator.mark_complete_blocks, cache.free_all_requests

    def mark_and_commit(request_id: str, token_ids: list[int], new_new_blocks: int) -> None:
        mark_complete_blocks(request_id, token_ids, new_new_blocks)
        shim.guard.call(None, shim.completed, request_id, token_ids)

    def free_and_tell(clear_ledgers: bool = False) -> None:
        free_all_requests(clear_ledgers=clear_ledgers)
        if clear_ledgers:
            shim.guard.call(None, shim.cache_cleared)

    allocator.mark_complete_blocks, cache.free_all_requests = mark_and_commit, free_and_tell
