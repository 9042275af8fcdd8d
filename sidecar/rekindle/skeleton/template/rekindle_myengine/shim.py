"""The shim: the half that runs in the engine's process, on the engine's own thread.

    engine calls        what the shim does
    ready               initialize: identity; attach: memory (Rank), scheduler (Leader), eager restore
    pages_allocated     raise the fence, before the step that writes those pages
    page_complete       commit, after the step that wrote the page's last byte
    step_done           one wake-up of the sidecar
    cache_reset         everything stored is void
    close               finalize

Each hook is guarded: what goes wrong in it turns the shim off, and the engine goes on as if it had none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Sequence
from typing import ClassVar

from rekindle_plugins.client import Leader, LeaderConfig, PlannedPage, Rank, RankConfig, Shim, restore_eagerly
from rekindle_plugins.client.eager import EagerRestore
from rekindle_plugins.client.guard import Guard, guarded
from rekindle_plugins.contract import GroupGeometry, Identity, PluginInfo, Region, Run, Stage

from rekindle_myengine.engine import KV_BYTES, LAYERS, TinyEngine
from rekindle_myengine.plugin import INFO

log = logging.getLogger("rekindle.myengine")

ENGINE_VERSION = "1"
ATTACH_WAIT_S = 2.5


class MyEngineShim(Shim):
    """Implements the engine's hooks, and what an eager restore needs of an engine (`client.eager.EagerTarget`)."""

    info: ClassVar[PluginInfo] = INFO

    def __init__(self, run_dir: str) -> None:
        super().__init__()
        self.guard = Guard(log, self._give_up)
        self._attach_path = os.path.join(run_dir, "attach.sock")
        self._instance = f"myengine-{uuid.uuid4().hex}"
        self._resets = 0
        self._eager: EagerRestore | None = None

    # -- life --------------------------------------------------------------------------------------------------

    def initialize(self, engine: TinyEngine) -> None:
        """What makes pages reusable by another process. A field that you cannot establish: raise, do not guess."""
        self.stages.enter(Stage.INITIALIZED)
        self._engine = engine
        self._identity = Identity.of(
            {
                "backend": INFO.name,
                "model": "tiny",
                "model_files": hashlib.sha256(engine.weights).hexdigest(),
                "geometry": f"pages of {engine.page_tokens} tokens, {LAYERS} layers of {KV_BYTES} bytes",
                "parallel": "tp1",
                "hash_scheme": "sha256 over parent and tokens",
                "weight_version": "0",
            }
        )

    def attach(self) -> None:
        """Both connections, and the restore. Returns within its budgets, whatever the sidecar does."""
        self.stages.enter(Stage.ATTACHED)
        engine = self._engine
        rank = RankConfig(self._attach_path, self._instance, INFO, ENGINE_VERSION, world_size=1)
        self._rank = Rank(rank, self._region(), (engine.memory_fd,), log)
        leader = LeaderConfig(
            self._attach_path,
            self._instance,
            INFO,
            ENGINE_VERSION,
            self._identity,
            page_count=engine.page_count,
            group_tokens=(engine.page_tokens,),
            world_size=1,
        )
        self._leader = Leader(leader, log)
        self._rank.start()
        self._leader.start()
        self._leader.link.settled.wait(ATTACH_WAIT_S)
        if self._leader.linked:
            self._eager = restore_eagerly(self._leader, self, self._leader.restore_budget_s)

    def finalize(self) -> None:
        if self.stages.stage is Stage.ATTACHED:
            self._leader.close()
            self._rank.close()
        self.stages.enter(Stage.FINALIZED)

    def _region(self) -> Region:
        """Where the bytes of a page lie: one segment a layer, the layers one behind the other."""
        engine = self._engine
        layer_bytes = engine.page_count * engine.page_bytes
        run = Run(buffer=0, base=0, stride=engine.page_bytes, length=engine.page_bytes, count=LAYERS, step=layer_bytes)
        group = GroupGeometry(engine.page_tokens, (run,))
        return Region(0, "shm", engine.page_count, (engine.memory_bytes,), (group,))

    def _give_up(self) -> None:
        leader: Leader | None = getattr(self, "_leader", None)
        if leader is not None:
            leader.give_up()

    # -- EagerTarget: free pages of the engine, and its prefix cache -------------------------------------------

    def free_pages(self) -> int:
        return len(self._engine.blank)

    def reserve(self, count: int) -> Sequence[int]:
        return [self._engine.blank.pop() for _ in range(count)]

    def register(self, page_id: int, page: PlannedPage) -> bool:
        """Called for verified pages only, parents before children."""
        if page.key in self._engine.page_of:
            return False
        self._engine.page_of[page.key] = page_id
        return True

    def release(self, page_ids: Sequence[int]) -> None:
        """Registered pages become evictable, the first one first; the others are blank again."""
        keys = {page_id: key for key, page_id in self._engine.page_of.items()}
        for page_id in page_ids:
            if page_id in keys:
                self._engine.page_of.move_to_end(keys[page_id])
            else:
                self._engine.blank.append(page_id)

    # -- the engine's hooks ------------------------------------------------------------------------------------

    @guarded(lambda: None)
    def ready(self, engine: TinyEngine) -> None:
        self.initialize(engine)
        self.attach()

    @guarded(lambda: None)
    def pages_allocated(self, page_ids: Sequence[int]) -> None:
        self._leader.raise_pages(page_ids)

    @guarded(lambda: None)
    def page_complete(self, page_id: int, key: bytes, parent: bytes, tokens: Sequence[int]) -> None:
        self._leader.commit(page_id, self._leader.epoch(page_id), 0, key, parent, tokens)

    @guarded(lambda: None)
    def step_done(self, outstanding: int) -> None:
        for result in self._leader.fills.poll():
            if self._eager is not None and self._eager.owns(result):
                self._eager.settle_late(result)  # it came after the restore's budget had ended
        self._leader.begin_step(outstanding)
        self._leader.end_step(outstanding)

    @guarded(lambda: None)
    def cache_reset(self) -> None:
        """From now on, pages belong to this process only: nobody knows whether the weights are still the files'."""
        self._resets += 1
        self._leader.reset(self._identity.with_field("weight_version", f"{self._instance}:{self._resets}"))

    @guarded(lambda: None)
    def close(self) -> None:
        self.finalize()


def connect() -> MyEngineShim:
    """What the engine's `--plugin` flag names."""
    return MyEngineShim(os.environ.get("REKINDLE_RUN_DIR", "/run/rekindle"))
