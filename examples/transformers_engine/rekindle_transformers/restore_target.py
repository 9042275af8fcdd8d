"""The engine's side of the eager restore: its pool gives pages, its ledger is the way into its prefix cache.

A page that is in nobody's block table, but in the ledger, is a cached one: found by prompts, and dropped when the
engine needs room. So a restored page is taken from the pool, entered under its hash, and released as if a request had
ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rekindle_plugins.client.leader import PlannedPage
from rekindle_plugins.contract.errors import ProtocolError
from rekindle_plugins.contract.journal import ROOT

from rekindle_transformers.engine_parts import EngineParts
from rekindle_transformers.keys import PageContent


class LedgerTarget:
    """Implements `EagerTarget`. Generation thread only."""

    def __init__(self, parts: EngineParts, on_registered: Callable[[int, PageContent], None]) -> None:
        self._parts = parts
        self._on_registered = on_registered
        self._hashes: dict[bytes, int | None] = {ROOT: None}
        self.reserved: set[int] = set()
        """Pages that are out of the engine's hands. A copier may be writing into them."""

    def free_pages(self) -> int:
        pool, allocator = self._parts.pool, self._parts.allocator
        return int(pool.num_free_sectors * allocator.blocks_per_sector + pool.count_free_blocks(allocator.index))

    def reserve(self, count: int) -> Sequence[int]:
        pool, index = self._parts.pool, self._parts.allocator.index
        while pool.count_free_blocks(index) < count:
            pool.allocate_sector(index)
        pages: list[int] = pool.get_free_blocks(index, count)
        self.reserved.update(pages)
        return pages

    def register(self, page_id: int, page: PlannedPage) -> bool:
        from transformers.generation.continuous_batching.cache_allocators.cache_allocator import compute_block_hash

        content = PageContent.of(page.parent, page.tokens)
        if content.key != page.key:
            raise ProtocolError("restore", f"page {page.key.hex()[:16]}", "its tokens are not those of its key")
        block_hash = compute_block_hash(self._hashes[page.parent], list(page.tokens))
        self._hashes[page.key] = block_hash
        if self._parts.ledger.register_new_hash(page_id, block_hash) is not None:
            return False
        self._on_registered(page_id, content)
        return True

    def release(self, page_ids: Sequence[int]) -> None:
        allocator, ledger = self._parts.allocator, self._parts.ledger
        self.reserved.difference_update(page_ids)
        self._parts.pool.free_blocks(allocator.index, [page for page in page_ids if ledger.release(page)])

    def keep_reserved(self) -> None:
        """The pool was reset, and offers every page again: takes the reserved ones out once more."""
        pool, allocator = self._parts.pool, self._parts.allocator
        size = allocator.blocks_per_sector
        sectors = {page // size for page in self.reserved}
        pool.free_sectors = [sector for sector in pool.free_sectors if sector not in sectors]
        beside = [page for sector in sectors for page in range(sector * size, (sector + 1) * size)]
        pool.free_blocks(allocator.index, [page for page in beside if page not in self.reserved])
