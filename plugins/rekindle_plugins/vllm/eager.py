"""vLLM's side of the eager restore: its block pool as the target.

Leans on `BlockPool.get_new_blocks`, `.free_blocks`, `.get_num_free_blocks` and the private `._insert_block_hash`
(vllm/v1/core/block_pool.py, the same in 0.28 to 0.32). Where the private one is missing there is no eager restore, and
the pages come back lazily.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rekindle_plugins.client.leader import PlannedPage
from rekindle_plugins.contract.journal import ROOT
from rekindle_plugins.vllm.support import Group


def can_restore_eagerly(pool: Any) -> bool:
    needed = ("get_new_blocks", "free_blocks", "get_num_free_blocks", "_insert_block_hash", "get_cached_block")
    return bool(getattr(pool, "enable_caching", False)) and all(hasattr(pool, name) for name in needed)


class PoolTarget:
    """Implements `EagerTarget` over a `BlockPool`. Scheduling thread only."""

    def __init__(self, pool: Any, groups: tuple[Group, ...]) -> None:
        self._pool = pool
        self._groups = groups
        self._blocks: dict[int, Any] = {}
        self._depths: dict[bytes, int] = {ROOT: 0}

    def free_pages(self) -> int:
        return int(self._pool.get_num_free_blocks())

    def reserve(self, count: int) -> Sequence[int]:
        blocks = self._pool.get_new_blocks(count)
        self._blocks.update((block.block_id, block) for block in blocks)
        return [block.block_id for block in blocks]

    def register(self, page_id: int, page: PlannedPage) -> bool:
        from vllm.v1.core.kv_cache_utils import BlockHash, make_block_hash_with_group_id

        block_hash = BlockHash(page.key)
        if self._pool.get_cached_block(block_hash, [page.group]) is not None:
            return False
        self._pool._insert_block_hash(
            make_block_hash_with_group_id(block_hash, page.group), self._blocks[page_id], num_tokens=self._end(page)
        )
        return True

    def release(self, page_ids: Sequence[int]) -> None:
        self._pool.free_blocks([self._blocks.pop(page_id) for page_id in page_ids])

    def _end(self, page: PlannedPage) -> int | None:
        """The position behind the page's last token, known by its parents; None for a page that stands alone."""
        group = self._groups[page.group]
        if not group.windowed:
            depth = self._depths.get(page.parent)
            if depth is None:
                return None
            self._depths[page.key] = depth + 1
            return (depth + 1) * group.block_size
        depth = self._depths.get(page.key)
        return depth * group.block_size if depth is not None else None
