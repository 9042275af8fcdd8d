"""The nano engine's shim. Read this first when you write one: it is the whole of what an engine needs.

    engine calls            what the shim does
    ready                   initialize: identity, geometry; attach: memory (Rank), scheduler (Leader), eager restore
    pages_allocated         raise the fence
    page_complete           commit
    step_begins             heartbeat: what hangs from here on was told of
    step_done               heartbeat; one wake-up
    lookup, load, poll      lazy restore, at a request's demand
    cache_reset             everything stored is void
    close                   finalize

All of it runs on the engine's thread. The one outermost guard is `Guard`: a failure here is a cold cache, no more.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rekindle_plugins.client.eager import EagerRestore, restore_eagerly
from rekindle_plugins.client.guard import Guard, guarded
from rekindle_plugins.client.leader import FillPage, FillResult, Leader, LeaderConfig, PlannedPage
from rekindle_plugins.client.rank import Rank, RankConfig
from rekindle_plugins.client.shim import Shim
from rekindle_plugins.contract.geometry import GroupGeometry, Region, Run
from rekindle_plugins.contract.identity import Identity
from rekindle_plugins.contract.plugin import PluginInfo, Stage
from rekindle_plugins.contract.sharing import SHM
from rekindle_plugins.nano.plugin import INFO

if TYPE_CHECKING:
    import argparse

    from nano_engine.blocks import CachedPage, PageId, PagePool
    from nano_engine.cache import KVCache
    from nano_engine.hooks import LoadReport

log = logging.getLogger("rekindle.nano")

ENGINE_VERSION = "1"
ATTACH_WAIT_S = 2.5


class NanoShim(Shim):
    """Implements the nano engine's `CacheHooks`."""

    info: ClassVar[PluginInfo] = INFO

    def __init__(self, run_dir: str) -> None:
        super().__init__()
        self.guard = Guard(log, self._give_up)
        self._attach_path = os.path.join(run_dir, "attach.sock")
        self._instance = f"nano-{uuid.uuid4().hex}"
        self._resets = 0
        self._eager: EagerRestore | None = None
        self._loads: dict[int, tuple[str, Sequence[CachedPage]]] = {}
        self._reported: list[LoadReport] = []

    # -- life --------------------------------------------------------------------------------------------------

    def initialize(self, cache: KVCache, blocks: PagePool) -> None:
        """What the pages are, and what makes them reusable."""
        self.stages.enter(Stage.INITIALIZED)
        from nano_engine.hooks import LoadReport  # the engine's own type, known only inside it

        self._report = LoadReport
        self._blocks = blocks
        self._cache = cache
        geometry = cache.geometry
        self._identity = Identity.of(
            {
                "backend": "nano",
                "model": "nano",
                "model_files": cache.model_digest,
                "geometry": f"pages of {geometry.page_tokens} tokens, {geometry.layers}x2x{geometry.width} float32",
                "parallel": "tp1",
                "hash_scheme": "sha256 over parent and tokens",
                "weight_version": "0",
            }
        )

    def attach(self) -> None:
        """Both connections, and the restore."""
        self.stages.enter(Stage.ATTACHED)
        geometry = self._cache.geometry
        region, fds = self.share(self._cache)
        rank_config = RankConfig(self._attach_path, self._instance, INFO, ENGINE_VERSION, 1)
        self._rank = Rank(rank_config, region, fds, log)
        self._leader = Leader(
            LeaderConfig(
                self._attach_path,
                self._instance,
                INFO,
                ENGINE_VERSION,
                self._identity,
                geometry.pages,
                (geometry.page_tokens,),
                1,
            ),
            log,
        )
        self._rank.start()
        self._leader.start()
        self._leader.link.settled.wait(ATTACH_WAIT_S)
        # Also when nothing was stored at that moment: the last pages of the engine before may just be being salvaged.
        if self._leader.linked:
            self._eager = restore_eagerly(self._leader, self, self._leader.restore_budget_s)

    def finalize(self) -> None:
        self.stages.enter(Stage.FINALIZED)
        halves: list[Leader | Rank | None] = [getattr(self, "_leader", None), getattr(self, "_rank", None)]
        for half in halves:
            if half is not None:  # an attach that failed may have made one, or none
                half.close()

    def share(self, cache: KVCache) -> tuple[Region, Sequence[int]]:
        """The cache's memory as a region, and the descriptors that go with it."""
        run = Run(0, 0, cache.page_bytes, cache.page_bytes)
        group = GroupGeometry(cache.geometry.page_tokens, (run,))
        return Region(0, SHM, cache.geometry.pages, (cache.total_bytes,), (group,)), (cache.fd,)

    def _give_up(self) -> None:
        leader: Leader | None = getattr(self, "_leader", None)
        if leader is not None:
            leader.give_up()

    # -- EagerTarget -------------------------------------------------------------------------------------------

    def free_pages(self) -> int:
        return self._blocks.blank_count

    def reserve(self, count: int) -> Sequence[int]:
        return self._blocks.take(count)

    def register(self, page_id: int, page: PlannedPage) -> bool:
        return self._blocks.register(page_id, page.key, page.parent, page.tokens)  # type: ignore[arg-type]

    def release(self, page_ids: Sequence[int]) -> None:
        """The nano engine evicts what was given back last first, so the order is turned round."""
        self._blocks.release(page_ids[::-1])  # type: ignore[arg-type]

    # -- CacheHooks --------------------------------------------------------------------------------------------

    @guarded(lambda: None)
    def ready(self, cache: KVCache, blocks: PagePool) -> None:
        self.initialize(cache, blocks)
        self.attach()

    @guarded(lambda: None)
    def pages_allocated(self, page_ids: Sequence[PageId]) -> None:
        self._leader.raise_pages(page_ids)

    @guarded(lambda: None)
    def page_complete(self, page_id: PageId, key: bytes, parent: bytes, tokens: Sequence[int], request_id: str) -> None:
        self._leader.commit(page_id, self._leader.epoch(page_id), 0, key, parent, tokens, request_id=request_id)

    @guarded(lambda: None)
    def step_begins(self, running: int, waiting: int) -> None:
        if running or waiting:
            self._leader.begin_step(running + waiting)

    @guarded(lambda: None)
    def step_done(self, running: int, waiting: int) -> None:
        self._leader.end_step(running + waiting)

    @guarded(lambda: 0)
    def lookup(self, keys: Sequence[bytes], have: int) -> int:
        end = have
        while end < len(keys) and self._leader.has(keys[end]):
            end += 1
        return end - have

    def load(self, request_id: str, pages: Sequence[CachedPage]) -> None:
        fill_id = self.guard.call(0, self._start_load, pages)
        if fill_id:
            self._loads[fill_id] = (request_id, pages)
        else:
            self._reported.append(self._report(request_id, 0))

    def _start_load(self, pages: Sequence[CachedPage]) -> int:
        leader = self._leader
        return leader.fill([FillPage(page.page_id, leader.epoch(page.page_id), 0, page.key) for page in pages])

    def poll_loads(self) -> Sequence[LoadReport]:
        self.guard.call(None, self._take_results)
        if not self.guard.is_on:
            self._report_lost_loads()
        reports, self._reported = self._reported, []
        return reports

    def _report_lost_loads(self) -> None:
        """The shim is off. Requests go on without their pages, which no copier writes to any more."""
        for result in self._leader.fills.poll() if self._loads else ():
            request_id, _ = self._loads.pop(result.fill_id, (None, ()))
            if request_id is not None:
                self._reported.append(self._report(request_id, 0))

    def _take_results(self) -> None:
        for result in self._leader.fills.poll():
            if self._eager is not None and self._eager.owns(result):
                self._eager.settle_late(result)
            elif result.fill_id in self._loads:
                self._loaded(result)

    def _loaded(self, result: FillResult) -> None:
        """The pages up to the first that failed are good; the engine computes the rest anew."""
        request_id, pages = self._loads.pop(result.fill_id)
        arrived = {page.page_id for page in result.ok}
        good = 0
        while good < len(pages) and pages[good].page_id in arrived:
            page = pages[good]
            self._leader.adopt(page.page_id, 0, page.key, page.parent, page.tokens)
            good += 1
        self._reported.append(self._report(request_id, good))

    @guarded(lambda: None)
    def cache_reset(self) -> None:
        self._resets += 1
        version = f"{self._instance}:{self._resets}"
        self._leader.reset(self._identity.with_field("weight_version", version))

    @guarded(lambda: None)
    def close(self) -> None:
        self.finalize()


def connect(_: argparse.Namespace) -> NanoShim:
    """The factory named on the engine's command line. The run directory comes from REKINDLE_RUN_DIR."""
    return NanoShim(os.environ.get("REKINDLE_RUN_DIR", "/run/rekindle"))
