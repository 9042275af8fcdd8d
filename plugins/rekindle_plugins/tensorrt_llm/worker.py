"""A rank's half of the TensorRT-LLM shim: hands KV-cache memory over, and puts staged pages into the engine's blocks.

Runs in every MPI process, on the thread that makes the executor (`attach`) and then on the executor loop's. Ranks other
than 0 attach with the first step: it brings the name of this engine start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rekindle_plugins.client.cuda import export_buffers
from rekindle_plugins.client.guard import Guard
from rekindle_plugins.client.rank import Rank, RankConfig
from rekindle_plugins.client.shim import Shim
from rekindle_plugins.contract.errors import DeviceError
from rekindle_plugins.contract.geometry import Region
from rekindle_plugins.contract.plugin import PluginInfo, Stage
from rekindle_plugins.tensorrt_llm.geometry import Pool, pool_of_layout, pool_of_tensor
from rekindle_plugins.tensorrt_llm.meeting import leader_of
from rekindle_plugins.tensorrt_llm.messages import StepPlan
from rekindle_plugins.tensorrt_llm.plugin import INFO
from rekindle_plugins.tensorrt_llm.scheduler import LeaderShim, staging_instance
from rekindle_plugins.tensorrt_llm.settings import Settings
from rekindle_plugins.tensorrt_llm.staging import StagingMemory, staging_pages
from rekindle_plugins.tensorrt_llm.support import UnsupportedError, check_args

ATTACH_WAIT_S = 2.5
DEFAULT_PAGE_TOKENS = 32
"""`KvCacheConfig.tokens_per_block`."""
NOT_EXPORTABLE = (
    "KVCacheManagerV2 creates its memory without a handle type that can be handed on as a descriptor: "
    "kv_cache_config.use_kv_cache_manager_v2: false"
)


class LoadError(Exception):
    """The engine counts on pages that cannot be put in place. The step must not run: its tokens would be wrong."""


class WorkerShim(Shim):
    """One rank's memory, and the copies into it."""

    info: ClassVar[PluginInfo] = INFO

    def __init__(self, guard: Guard, log: logging.Logger) -> None:
        super().__init__()
        self.guard = guard
        self._log = log
        self._leader: LeaderShim | None = None
        self._start_ranks: Callable[[str], None] | None = None
        """Given the name of the engine start, begins to attach."""
        self._ranks: list[Rank] = []
        self._staging: StagingMemory | None = None
        self._last_step = 0

    # -- life --------------------------------------------------------------------------------------------------

    def initialize(self, llm_args: Any) -> None:
        """Raises UnsupportedError when this engine cannot be protected."""
        self.stages.enter(Stage.INITIALIZED)
        self._args = llm_args
        self._settings = Settings.of()
        self._world_size = check_args(llm_args)

    def attach_tensor(self, tensor: Any, rank: int, engine_version: str) -> None:
        """V1's pool. Raises UnsupportedError when the memory cannot be protected."""
        cache = getattr(self._args, "kv_cache_config", None)
        page_tokens = int(getattr(cache, "tokens_per_block", None) or DEFAULT_PAGE_TOKENS)
        self.attach(pool_of_tensor(tensor, page_tokens), rank, engine_version)

    def attach_layout(self, layout: Any, rank: int, engine_version: str) -> None:
        """V2's pools. Raises UnsupportedError when the memory cannot be protected."""
        self.attach(pool_of_layout(layout), rank, engine_version, NOT_EXPORTABLE)

    def attach(self, pool: Pool, rank: int, engine_version: str, hint: str = "") -> None:
        """`hint`: what to do where the memory cannot be shared, if the driver's word is not enough."""
        self.stages.enter(Stage.ATTACHED)
        try:
            exported = export_buffers(pool.buffers)
        except DeviceError as error:
            raise UnsupportedError(f"{error.subject}: {error.problem} ({hint or error.hint})") from error
        sizes = tuple(size for _, size in pool.buffers)
        region = Region(rank, exported.kind, pool.page_count, sizes, (pool.group,), pool.layout, exported.devices)
        pages = staging_pages(pool, self._settings.staging_bytes)
        staging = self._staging = StagingMemory(pool, rank, pages) if pages else None

        def start(instance: str) -> None:
            self._start_rank(instance, engine_version, region, exported.fds)
            if staging is not None:
                self._start_rank(staging_instance(instance), engine_version, staging.region, (staging.fd,))

        self._start_ranks = start
        if rank == 0:
            self._attach_leader(pool, pages, engine_version)

    def _attach_leader(self, pool: Pool, pages: int, engine_version: str) -> None:
        leader = leader_of(self._args)
        if leader is None or not leader.guard.is_on:
            raise UnsupportedError("the scheduler's half is off")
        self._leader = leader
        try:
            leader.attach(pool, pages, engine_version)
        except Exception:
            leader.guard.turn_off("rank 0 could not attach")
            raise
        self._join(leader.instance)
        if self._world_size == 1:
            leader.wait_until_attached(ATTACH_WAIT_S)

    def _start_rank(self, instance: str, engine_version: str, region: Region, fds: Sequence[int]) -> None:
        config = RankConfig(self._settings.attach_path, instance, INFO, engine_version, self._world_size)
        self._ranks.append(Rank(config, region, fds, self._log))
        self._ranks[-1].start()

    def _join(self, instance: str) -> None:
        start, self._start_ranks = self._start_ranks, None
        if start is not None:
            start(instance)

    def give_up(self) -> None:
        """This rank no longer keeps an ended request's blocks: the leader must not count on it."""
        if self._leader is not None:
            self._leader.guard.turn_off("rank 0's half is off")

    def finalize(self) -> None:
        self.stages.enter(Stage.FINALIZED)
        for rank in self._ranks:
            rank.close()

    # -- one step ----------------------------------------------------------------------------------------------

    def follow(self, plan: StepPlan) -> None:
        """Attaches with the first plan, on ranks other than 0."""
        self._join(plan.instance)

    def load(self, plan: StepPlan, stream: int) -> None:
        """Puts this step's pages in place. Raises LoadError or DeviceError, and then the step must not run.

        A plan that has been followed is not followed again: where the engine has nothing new to say it leaves the old
        one in place.
        """
        if plan.step <= self._last_step:
            return
        self._last_step = plan.step
        if plan.broken:
            raise LoadError(f"rekindle: {plan.broken}")
        if plan.copies:
            if self._staging is None:
                raise LoadError(f"rekindle: {len(plan.copies)} pages were loaded, but this rank has none")
            self._staging.put(plan.copies, stream)

    def finished(self, ids: Sequence[int]) -> list[int]:
        """Which of the ended requests' blocks may be freed: rank 0 decides, for the engine waits for all ranks."""
        return self._leader.poll(ids) if self._leader is not None else list(ids)
