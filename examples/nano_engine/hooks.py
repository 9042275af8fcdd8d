"""The seam to a plugin. The engine knows what it calls and when, and nothing of who answers.

Every hook runs on the engine thread, between or inside steps, so it may use the `PagePool` freely and must
return promptly: the engine does nothing else meanwhile (`ready` and `close` may take seconds). An exception
out of a hook ends the engine, so a plugin guards itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from nano_engine.blocks import CachedPage, PageId, PagePool
from nano_engine.cache import KVCache


class LoadReport(NamedTuple):
    """The end of one load.

    `good_count` pages of those asked for, a prefix, hold verified KV. `in_doubt`: the others may still be
    written to by somebody. The engine then never touches them again: their hold passes to the plugin, which
    gives them to `PagePool.release` when the writer is known to be gone.
    """

    request_id: str
    good_count: int
    in_doubt: bool = False


class CacheHooks(Protocol):
    """What the engine tells and asks a plugin."""

    def ready(self, cache: KVCache, blocks: PagePool) -> None:
        """The cache exists and no request has been served: the place for an eager restore."""

    def pages_allocated(self, page_ids: Sequence[PageId]) -> None:
        """These pages change owner: raise their fence. The step, or load, that writes them has not begun."""

    def lookup(self, keys: Sequence[bytes], have: int) -> int:
        """How many further pages could be loaded, when the first `have` of `keys` are in the cache already."""

    def load(self, request_id: str, pages: Sequence[CachedPage]) -> None:
        """Begin to fill freshly allocated pages with the KV of these keys, in the background.

        The request waits, others go on. The pages are not reused before `poll_loads` has reported this load,
        not even when the request is aborted.
        """

    def poll_loads(self) -> Sequence[LoadReport]:
        """The loads that ended since the last call, each reported once.

        Called before every step and, while the engine is idle, a few times a second: housekeeping that needs
        the engine thread (a reconnect, announcing `PagePool.cached` again) belongs here too.
        """

    def page_complete(self, page_id: PageId, key: bytes, parent: bytes, tokens: Sequence[int], request_id: str) -> None:
        """The page's last token has its KV, and the step that wrote it is over. No client has yet seen a
        token of that step. Not called for loaded pages, nor for a second copy of a key.
        """

    def step_begins(self, running: int, waiting: int) -> None:
        """A turn of the engine begins, before anything else is done in it. The counts are requests."""

    def step_done(self, running: int, waiting: int) -> None:
        """A step is over, after its `page_complete` calls and before its tokens are seen outside.

        Called with 0, 0 a few times a second while the engine is idle. The counts are requests; one that
        waits for a load is waiting.
        """

    def cache_reset(self) -> None:
        """Every key has just been dropped at the operator's wish. Pages loaded from now on must be newer."""

    def close(self) -> None:
        """The engine stops. Not called when it is killed."""


class NoHooks:
    """No plugin."""

    def ready(self, cache: KVCache, blocks: PagePool) -> None:
        pass

    def pages_allocated(self, page_ids: Sequence[PageId]) -> None:
        pass

    def lookup(self, keys: Sequence[bytes], have: int) -> int:
        return 0

    def load(self, request_id: str, pages: Sequence[CachedPage]) -> None:
        raise AssertionError("load was called though lookup never promises a page")

    def poll_loads(self) -> Sequence[LoadReport]:
        return ()

    def page_complete(self, page_id: PageId, key: bytes, parent: bytes, tokens: Sequence[int], request_id: str) -> None:
        pass

    def step_begins(self, running: int, waiting: int) -> None:
        pass

    def step_done(self, running: int, waiting: int) -> None:
        pass

    def cache_reset(self) -> None:
        pass

    def close(self) -> None:
        pass
