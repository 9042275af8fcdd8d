"""The parts of a `ContinuousBatchProcessor` that the shim holds on to, and whether it can protect them.

Leans on transformers/generation/continuous_batching of 5.19: `cache.PagedAttentionCache`, `cache_allocators.CachePool`,
`FullAttentionCacheAllocator` and its `BlockLedger`. None of it is a public interface, so other versions are refused.

    the engine's word    ours
    block                page: "page_size" tokens of all layers, one range of bytes in the cache tensor
    sector               a number of blocks, handed out as one; the first two are never handed out
    ledger               its prefix cache: hash of a complete block ↔ block
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ENGINE_VERSION = "5.19."


class UnsupportedError(Exception):
    """This engine is one that the plugin does not protect. The text says why; the engine runs as without it."""


@dataclass(frozen=True)
class EngineParts:
    """One processor's cache. All of it belongs to the thread that runs the generation loop."""

    model: Any
    processor: Any
    cache: Any
    allocator: Any
    pool: Any
    ledger: Any
    page_tokens: int
    page_count: int
    """Pages in the cache tensor, those of the two sectors included that are never handed out."""

    @property
    def usable_pages(self) -> int:
        return int(self.allocator.num_blocks)

    @property
    def margin_pages(self) -> int:
        """Free pages below which the scheduler drops its whole prefix cache (`Scheduler._try_to_meet_safety_margin`).

        The pages of one batch come on top, or the first batch would go below it.
        """
        margin = float(self.processor.scheduler.safety_margin) * self.usable_pages
        return int(margin) + 1 + -(-int(self.cache.max_batch_tokens) // self.page_tokens)


def parts_of(model: Any, processor: Any) -> EngineParts:
    """Raises UnsupportedError for a version or configuration that is not protected."""
    import transformers

    if not transformers.__version__.startswith(ENGINE_VERSION):
        raise UnsupportedError(f"transformers {transformers.__version__} is not {ENGINE_VERSION}x")
    cache = processor.cache
    device = cache.cache_tensor.device.type
    if device != "cpu":
        raise UnsupportedError(f"its KV cache is in {device} memory")
    if processor.distributed_helper.tp_size > 1:
        raise UnsupportedError("it is tensor parallel")
    if processor.use_async_batching:
        raise UnsupportedError("with asynchronous batching a page is handed out again while a step still writes to it")
    if len(cache.cache_allocators) != 1 or not cache.use_prefix_sharing:
        raise UnsupportedError(f"its cache ({', '.join(cache.cache_allocators)}) shares no prefixes")
    (allocator,) = cache.cache_allocators.values()
    page_count, rest = divmod(cache.cache_tensor.nbytes, allocator.bytes_per_block)
    if rest:
        raise UnsupportedError(f"its cache of {cache.cache_tensor.nbytes} B does not end with a block")
    return EngineParts(
        model, processor, cache, allocator, cache.pool, allocator.ledger, int(allocator.tokens_per_page), page_count
    )
