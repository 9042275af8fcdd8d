"""The scheduler half of the vLLM shim: raises fences, commits pages, restores. Runs on the scheduler's thread.

    one step        schedule → build_meta (new blocks: raise, remember) → dispatch → … → step_done (commit)
    asynchronous    step N+1 is built before step N's output: `num_computed_tokens - num_in_flight_tokens` is what is
                    really there, on every worker, when step N's output is handled
    a page commits  when its last token's KV is there, under the epoch it had when its request got the block
    heartbeat       every build_meta is a turn; a step is under way from there to its step_done. Requests wait from
                    on_new_request on, until vLLM asks has_pending_push_work: it does so only when it finds nothing to
                    do, also while it is paused with requests (`Scheduler.has_requests`, which the core's loop asks
                    before it sleeps)

Leans on `SchedulerOutput` (scheduled_new_reqs, scheduled_cached_reqs, preempted_req_ids, kv_cache_block_copies) and on
`Request` (num_computed_tokens, num_in_flight_tokens, block_hashes, all_token_ids), vllm/v1, 0.28 to 0.32.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rekindle_plugins.client.eager import EagerRestore, restore_eagerly
from rekindle_plugins.client.guard import Guard
from rekindle_plugins.client.leader import Leader, LeaderConfig
from rekindle_plugins.client.shim import Shim
from rekindle_plugins.contract.plugin import PluginInfo, Stage
from rekindle_plugins.vllm.adapters import Adapters
from rekindle_plugins.vllm.composition import composition_of
from rekindle_plugins.vllm.eager import PoolTarget, can_restore_eagerly
from rekindle_plugins.vllm.identity import identity_of, settle_hash_seed
from rekindle_plugins.vllm.keys import Keys, flags, tokens_of
from rekindle_plugins.vllm.loads import Loads
from rekindle_plugins.vllm.messages import StepDone, StepPlan
from rekindle_plugins.vllm.plugin import INFO
from rekindle_plugins.vllm.serving import serving_of
from rekindle_plugins.vllm.settings import Settings
from rekindle_plugins.vllm.support import UnsupportedError, check_parallel, groups_of
from rekindle_plugins.vllm.tables import NULL_BLOCK, RequestTable

ATTACH_WAIT_S = 2.5
IDLE_WAIT_S = 0.002


class SchedulerShim(Shim):
    """Everything of one engine start, from the moment the block pool exists."""

    info: ClassVar[PluginInfo] = INFO

    def __init__(self, guard: Guard, log: logging.Logger) -> None:
        super().__init__()
        self.guard = guard
        self._log = log
        self._tables: dict[str, RequestTable] = {}
        self._requests: dict[str, Any] = {}
        self._steps: dict[int, list[str]] = {}
        self._ended: list[tuple[Any, RequestTable, int]] = []
        """(request, table, tokens computed) of requests that ended before their table's first step was done."""
        self._step = 0
        self._done_step = 0
        self._resets = 0
        self._clean = False
        self._eager: EagerRestore | None = None
        self.leader: Leader | None = None
        self._loads: Loads | None = None

    # -- life --------------------------------------------------------------------------------------------------

    def initialize(self, vllm_config: Any, kv_cache_config: Any) -> None:
        """Raises UnsupportedError when this configuration cannot be protected."""
        self.stages.enter(Stage.INITIALIZED)
        self._config = vllm_config
        self._settings = Settings.of(vllm_config)
        self._world_size = check_parallel(vllm_config)
        self._groups = groups_of(kv_cache_config)
        self._block_count = int(kv_cache_config.num_blocks)
        self._composition = composition_of(vllm_config)
        settle_hash_seed(str(vllm_config.cache_config.prefix_caching_hash_algo))

    def attach(self, pool: Any) -> None:
        """The workers have registered their memory and warmed up; no request has come yet: attach and restore."""
        self.stages.enter(Stage.ATTACHED)
        hash_block_size = int(getattr(pool, "hash_block_size", self._groups[0].block_size))
        if any(group.block_size % hash_block_size for group in self._groups):
            raise UnsupportedError("a KV-cache group's block size is no multiple of the hash block size")
        import vllm

        self._identity = identity_of(self._config, self._groups, hash_block_size)
        self._keys = Keys(self._groups, hash_block_size, Adapters(self._log))
        settings = self._settings
        self.leader = Leader(
            LeaderConfig(
                settings.attach_path,
                settings.instance,
                INFO,
                vllm.__version__,
                self._identity,
                self._block_count,
                tuple(group.block_size for group in self._groups),
                self._world_size,
                serving=serving_of(self._config),
            ),
            self._log,
        )
        if not self._composition.failed_loads_recompute:
            self._log.warning(
                "rekindle: kv_load_failure_policy (at the top) is not recompute: pages come back at the start alone, "
                "because a page that does not come would fail its request"
            )
        elif len(self._groups) == 1:
            self._loads = Loads(self.leader, self._keys, self._groups[0].block_size)
        self._watch_pool(pool, self.leader)
        self.leader.start()
        self.leader.link.settled.wait(ATTACH_WAIT_S)
        self._restore(pool)

    def _watch_pool(self, pool: Any, leader: Leader) -> None:
        """Every block is handed out here, also those that no scheduler output names (copy-on-write, other connectors).

        The documented way (new_block_ids) is followed as well; this closes what it leaves open, and it is the only
        notice of a plain `reset_prefix_cache`. Instance attributes, so that other pools are untouched.
        """
        get_new_blocks: Callable[[int], list[Any]] = pool.get_new_blocks
        reset_prefix_cache: Callable[[], bool] = pool.reset_prefix_cache

        def get_and_raise(num_blocks: int) -> list[Any]:
            blocks = get_new_blocks(num_blocks)
            self.guard.call(None, leader.raise_pages, [block.block_id for block in blocks])
            return blocks

        def reset_and_tell() -> bool:
            done = reset_prefix_cache()
            if done:
                self.guard.call(None, self.reset)
            return done

        pool.get_new_blocks = get_and_raise
        pool.reset_prefix_cache = reset_and_tell

    def _restore(self, pool: Any) -> None:
        leader = self.leader
        assert leader is not None
        if not leader.linked:
            return
        if not can_restore_eagerly(pool):
            self._log.info(
                "rekindle: no way into the prefix cache here, %d pages wait to be asked for", leader.stored_pages
            )
            return
        # Also when nothing was stored at that moment: the last pages of the engine before may just be being salvaged.
        budget = self._settings.restore_budget_s
        budget = leader.restore_budget_s if budget is None else budget
        self._eager = restore_eagerly(leader, PoolTarget(pool, self._groups), budget)
        if not self._eager.planned:
            self._log.info("rekindle: attached, nothing to restore")
            return
        self._log.info(
            "rekindle: restored %d of %d pages (%d tokens) in %.3f s, rejected %s",
            self._eager.restored,
            self._eager.planned,
            self._eager.tokens,
            self._eager.seconds,
            self._eager.rejected or "none",
        )

    # -- one step ----------------------------------------------------------------------------------------------

    def build_plan(self, output: Any) -> StepPlan:
        """Before dispatch: whatever this step may overwrite is fenced off when this returns."""
        leader = self.leader
        if leader is None:
            return StepPlan()
        started = time.perf_counter_ns()
        self._step += 1
        copies = getattr(output, "kv_cache_block_copies", None)
        if copies:  # before the tables take these pages' epochs
            leader.raise_pages([copy.dst_block_id for copy in copies])
        for request_id in output.preempted_req_ids or ():
            self._tables.pop(request_id, None)
        self._take_cached(leader, output.scheduled_cached_reqs)
        for new in output.scheduled_new_reqs:  # last: they may have found what was just given to the others
            self._replace_table(leader, new.req_id, new.block_ids, new.num_computed_tokens)
        scheduled = list(output.num_scheduled_tokens)
        if scheduled:
            self._steps[self._step] = scheduled
            self._clean = False
        leader.begin_step(len(self._requests))
        if not scheduled:  # nothing runs: the turn is over with this
            leader.end_step(len(self._requests), len(self._steps))
        self._collect(wait=not scheduled)
        loaded, bad = self._loads.take_finished() if self._loads is not None else (frozenset(), frozenset())
        leader.account(time.perf_counter_ns() - started)
        return StepPlan(self._step, loaded, bad)

    def _take_cached(self, leader: Leader, cached: Any) -> None:
        resumed = cached.resumed_req_ids
        for position, block_ids in enumerate(cached.new_block_ids):
            if block_ids is None:
                continue
            request_id = cached.req_ids[position]
            if request_id in resumed:
                self._replace_table(leader, request_id, block_ids, cached.num_computed_tokens[position])
                continue
            table = self._tables.get(request_id)
            for group, ids in enumerate(block_ids):
                leader.raise_pages(ids)
                if table is not None:
                    table.append(group, ids, leader.epoch)

    def _replace_table(
        self, leader: Leader, request_id: str, block_ids: Sequence[Sequence[int]], computed_tokens: int
    ) -> None:
        """A request's whole table: pages it found in the cache stay as they are, the others will be written."""
        table = RequestTable.empty(len(self._groups), self._step)
        for group, ids in enumerate(block_ids):
            found = computed_tokens // self._groups[group].block_size
            leader.raise_pages([page_id for page_id in ids[found:] if page_id != NULL_BLOCK])
            table.append(group, ids, leader.epoch)
        self._tables[request_id] = table

    def step_done(self, done: StepDone | None) -> None:
        """A step's output is being handled: its KV is complete on all workers."""
        leader = self.leader
        if leader is None or done is None:
            return
        started = time.perf_counter_ns()
        self._done_step = done.step
        for step in [step for step in self._steps if step <= done.step]:
            for request_id in self._steps.pop(step):
                request, table = self._requests.get(request_id), self._tables.get(request_id)
                if request is not None and table is not None and table.first_step <= done.step:
                    self._commit(leader, request, table, _computed_tokens(request))
        self._commit_ended(leader)
        leader.account(time.perf_counter_ns() - started)
        leader.end_step(len(self._requests), len(self._steps))

    def _commit_ended(self, leader: Leader) -> None:
        ended, self._ended = self._ended, []
        for request, table, tokens in ended:
            if table.first_step <= self._done_step:
                self._commit(leader, request, table, tokens)
            else:
                self._ended.append((request, table, tokens))

    def _commit(self, leader: Leader, request: Any, table: RequestTable, tokens: int) -> None:
        """Announces the pages of a request that have become complete: those of its first `tokens` tokens."""
        secret: bytes | None = b""
        for group in self._groups:
            index = table.committed[group.index]
            end = min(tokens // group.block_size, len(table.pages[group.index]))
            if end <= index:
                continue
            if secret == b"":
                secret = self._keys.secret_of(request)
            if secret is None:
                return
            end = min(end, self._keys.count(request, group.index))
            for page in range(index, end):
                self._commit_page(leader, request, table, group.index, page, secret)
            table.committed[group.index] = max(index, end)

    def _commit_page(
        self, leader: Leader, request: Any, table: RequestTable, group: int, index: int, secret: bytes
    ) -> None:
        page_id = table.pages[group][index]
        if page_id == NULL_BLOCK or leader.is_live(page_id):
            return
        size = self._groups[group].block_size
        leader.commit(
            page_id,
            table.epochs[group][index],
            group,
            self._keys.key(request, group, index, secret),
            self._keys.parent(request, group, index, secret),
            tokens_of(request, size, index),
            flags(request.block_hashes[0], secret),
            request.request_id,
        )

    # -- requests ----------------------------------------------------------------------------------------------

    def on_request(self, request: Any) -> None:
        self._requests[request.request_id] = request
        if self.leader is not None:
            self.leader.tell_outstanding(len(self._requests))
            self._keys.secret_of(request)  # an adapter's digest takes a moment: begin with it

    def on_finished(self, request: Any) -> None:
        """A request ended or was aborted; its blocks are about to be freed. What it completed is committed.

        Aborted before its first step is done, it has to wait for that: see `RequestTable.first_step`. What is
        handed out again until then has another epoch, and is not committed.
        """
        self._requests.pop(request.request_id, None)
        table = self._tables.pop(request.request_id, None)
        if self._loads is not None:
            self._loads.forget(request)
        if self.leader is not None and table is not None:
            self._ended.append((request, table, _computed_tokens(request)))
            self._commit_ended(self.leader)

    def offer(self, request: Any, computed_tokens: int) -> int | None:
        """Tokens that can be loaded, or None: ask again with the next step."""
        return self._loads.offer(request, computed_tokens) if self._loads is not None else 0

    def on_allocated_for(self, request: Any, blocks: Any, external_tokens: int) -> None:
        if not external_tokens or self._loads is None:
            return
        block_ids = blocks.get_block_ids()[0]
        try:
            self._loads.begin(request, block_ids, external_tokens)
        except Exception:
            self._loads.fail(request, block_ids, external_tokens)
            raise

    # -- results of fills --------------------------------------------------------------------------------------

    @property
    def has_pending_loads(self) -> bool:
        late = self._eager is not None and self._eager.pending
        return late or (self._loads is not None and self._loads.pending)

    def found_nothing_to_do(self) -> bool:
        """vLLM would go to sleep, unless loads are pending. Requests it holds are paused, or wait for their client."""
        if self.leader is not None and not self.has_pending_loads:
            self.leader.tell_outstanding(0)
        return self.has_pending_loads

    def _collect(self, wait: bool) -> None:
        """Takes what has arrived. A step without work may wait a moment instead of turning at full speed."""
        leader = self.leader
        assert leader is not None
        fills = leader.fills
        results = fills.wait(IDLE_WAIT_S) if wait and self.has_pending_loads else fills.poll()
        for result in results:
            if self._eager is not None and self._eager.owns(result):
                self._eager.settle_late(result)
            elif self._loads is not None and self._loads.owns(result):
                self._loads.settle(result)

    def reset(self) -> None:
        """vLLM dropped its cache, or its weights changed. We cannot tell which, so nothing stored counts any more.

        Pages committed from now on belong to this engine start alone: a fresh engine has the weights of the files.
        """
        if self.leader is None or self._clean:
            return
        self._clean = True
        self._resets += 1
        version = f"{self._settings.instance}:{self._resets}"
        self.leader.reset(self._identity.with_field("weight_version", version))

    def give_up(self) -> None:
        """The shim failed: nothing that it announced may be copied any more. Loads in flight still come to an end."""
        self._tables.clear()
        self._ended.clear()
        self._steps.clear()
        if self.leader is not None:
            self.leader.give_up()

    def plan_when_off(self) -> StepPlan:
        """After `give_up`: only what vLLM still waits for."""
        if self.leader is None or self._loads is None:
            return StepPlan()
        for result in self.leader.fills.poll():
            if self._loads.owns(result):
                self._loads.settle(result)
        loaded, bad = self._loads.take_finished()
        return StepPlan(0, loaded, bad)

    def finalize(self) -> None:
        self.stages.enter(Stage.FINALIZED)
        if self.leader is not None:
            self.leader.close()


def _computed_tokens(request: Any) -> int:
    """Tokens whose KV is there, less those of steps whose output has not been handled yet."""
    return int(request.num_computed_tokens - request.num_in_flight_tokens)
