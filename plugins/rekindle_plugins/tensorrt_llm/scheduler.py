"""The leader's half of the TensorRT-LLM shim: raises fences, commits pages, restores. Executor loop's thread, rank 0.

    get_num_new_matched_tokens   claim what has arrived (`loads`)
    update_state_after_alloc     look at the request: which root its keys have
    build_connector_meta         copies of this step; new blocks: raise, remember; commit what a new token proves
    request_finished             commit the rest; keep the blocks until they are copied (the engine's "saving")
    get_finished (rank 0's)      let go of what is copied: raise, report

Only blocks that some request holds are announced. When a request's blocks are let go of, their epochs are raised: the
engine hands blocks out at places that no connector hears of (the dummy requests that pad a CUDA graph), so a free block
must not be copied, though it still holds what it held. An ended request keeps its blocks for a moment (`holds`).

Leans on `RequestData` and `SchedulerOutput` (pyexecutor/connectors/kv_cache_connector.py; earlier versions without the
folder), and on `LlmRequest.request_id` and `.get_tokens(0)`.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

from rekindle_plugins.client.guard import Guard
from rekindle_plugins.client.leader import Leader, LeaderConfig
from rekindle_plugins.client.shim import Shim
from rekindle_plugins.contract.journal import ROOT
from rekindle_plugins.contract.plugin import PluginInfo, Stage
from rekindle_plugins.tensorrt_llm.geometry import Pool
from rekindle_plugins.tensorrt_llm.holds import Holds
from rekindle_plugins.tensorrt_llm.identity import identity_of
from rekindle_plugins.tensorrt_llm.keys import flags_of, root_of
from rekindle_plugins.tensorrt_llm.loads import Loads, Staging
from rekindle_plugins.tensorrt_llm.messages import StepPlan
from rekindle_plugins.tensorrt_llm.plugin import INFO
from rekindle_plugins.tensorrt_llm.settings import Settings
from rekindle_plugins.tensorrt_llm.support import UnsupportedError, check_args, check_model, model_folder
from rekindle_plugins.tensorrt_llm.tables import BAD_PAGE, Owners, RequestTable
from rekindle_plugins.tensorrt_llm.warm_up import warm_up_engine

STAGING_JOURNAL_RECORDS = 64


class LeaderShim(Shim):
    """Everything of one engine start that concerns its scheduler."""

    info: ClassVar[PluginInfo] = INFO

    def __init__(self, guard: Guard, log: logging.Logger) -> None:
        super().__init__()
        self.guard = guard
        self.instance = f"tensorrt_llm-{uuid.uuid4().hex}"
        self.leader: Leader | None = None
        self.loaded_pages = 0
        self._log = log
        self._staging: Staging | None = None
        self._loads: Loads | None = None
        self._page_tokens = 0
        self._roots: dict[int, bytes | None] = {}
        self._tables: dict[int, RequestTable] = {}
        self._owners = Owners()
        self._holds = Holds(self._is_stored, self._let_go)
        self._step = 0
        self._is_in_step = False

    # -- life --------------------------------------------------------------------------------------------------

    def initialize(self, llm_args: Any) -> None:
        """Raises UnsupportedError when this engine cannot be protected."""
        self.stages.enter(Stage.INITIALIZED)
        self._args = llm_args
        self._settings = Settings.of()
        self._world_size = check_args(llm_args)
        check_model(model_folder(llm_args))

    def attach(self, pool: Pool, staging_pages: int, engine_version: str) -> None:
        """Rank 0's memory is known. Begins to attach and returns at once."""
        self.stages.enter(Stage.ATTACHED)
        self._page_tokens = pool.group.page_tokens
        identity = identity_of(self._args, engine_version, self._page_tokens, pool.part_bytes)

        def config(instance: str, page_count: int, **more: Any) -> LeaderConfig:
            tokens, path = (self._page_tokens,), self._settings.attach_path
            return LeaderConfig(
                path, instance, INFO, engine_version, identity, page_count, tokens, self._world_size, **more
            )

        self.leader = Leader(config(self.instance, pool.page_count), self._log)
        self.leader.start()
        if staging_pages:
            staging_config = config(
                staging_instance(self.instance), staging_pages, journal_records=STAGING_JOURNAL_RECORDS
            )
            staging_leader = Leader(staging_config, self._log)
            self._staging = Staging(staging_leader, staging_pages, self._settings.wait_s)
            self._loads = Loads(self._staging, self._page_tokens)
            staging_leader.start()
        if self._settings.warm_up_url:
            url, model = self._settings.warm_up_url, str(getattr(self._args, "model", ""))
            work = threading.Thread(
                target=warm_up_engine,
                args=(self.leader, url, model, self._page_tokens, lambda: self.loaded_pages, self._log),
                name="rekindle-warm-up",
                daemon=True,
            )
            work.start()

    def wait_until_attached(self, timeout_s: float) -> None:
        """For an engine of one rank, whose halves are all here: so that its first request finds what is stored."""
        deadline = time.monotonic() + timeout_s
        for leader in self._leaders():
            leader.link.settled.wait(max(0.0, deadline - time.monotonic()))

    def finalize(self) -> None:
        self.stages.enter(Stage.FINALIZED)
        for leader in self._leaders():
            leader.close()

    def give_up(self) -> None:
        """The shim failed: nothing that it announced may be copied any more. Claims that were made are still kept."""
        self._tables.clear()
        for leader in self._leaders():
            leader.give_up()

    def _leaders(self) -> list[Leader]:
        staging = self._staging.leader if self._staging is not None else None
        return [leader for leader in (self.leader, staging) if leader is not None]

    # -- requests ----------------------------------------------------------------------------------------------

    def offer(self, request: Any, computed_tokens: int) -> int:
        """Tokens that can be put in place beyond those that the engine has: they are in staging memory now."""
        if self._loads is None:
            return 0
        root = root_of(request)
        request_id = int(request.request_id)
        self._roots[request_id] = root
        return self._loads.offer(request_id, root, request.get_tokens(0), computed_tokens) if root is not None else 0

    def on_allocated_for(self, request: Any) -> None:
        """The blocks themselves are taken from the step's output, which tells of all of them."""
        request_id = int(request.request_id)
        root = root_of(request)
        # Before, it was asked of a part of the request only: V1 hands the class below out then.
        self._roots[request_id] = root if self._roots.get(request_id, root) == root else None

    def on_finished(self, request: Any) -> bool:
        """A request ended, or its blocks are taken from it. True: they stay as they are until `poll` names it."""
        request_id = int(request.request_id)
        self.forget(request)
        leader, table = self.leader, self._tables.pop(request_id, None)
        if leader is None or table is None:
            return False
        if table.take_all_tokens(request.get_tokens(0)):
            self._mark(table)
            self._commit(leader, table)
        count = table.committed if table.root is not None else 0
        keys = (table.key(index, self._page_tokens) for index in range(count))
        return self._holds.end(request_id, table.pages, keys, leader.linked)

    def forget(self, request: Any) -> None:
        """The request will not take what was claimed for it: it ended, or begins again."""
        self._roots.pop(int(request.request_id), None)
        if self._loads is not None:
            self._loads.forget(int(request.request_id))

    def on_load_cancelled(self, request: Any, start: int) -> None:
        """The engine computes what was claimed from token `start` on. What is before is copied, and more does no harm:
        it is computed over."""
        first = self._loads.first_page(int(request.request_id)) if self._loads is not None else None
        if self._loads is not None and first is not None and start <= first * self._page_tokens:
            self._loads.forget(int(request.request_id))

    def on_reset(self, request: Any) -> None:
        """Its blocks are somebody else's already. It will come again as a new request."""
        self.forget(request)
        table = self._tables.pop(int(request.request_id), None)
        if table is not None:
            self._let_go(table.pages)

    # -- one step ----------------------------------------------------------------------------------------------

    def next_plan(self, output: Any) -> StepPlan:
        """What the ranks have to do for this step. Never raises: claims that were made must be kept or denounced."""
        self._step += 1
        if self._loads is None:
            return StepPlan(self._step, self.instance)
        try:
            copies, broken = self._loads.plan(output.new_requests, output.cached_requests, _pages_of)
        except Exception as error:
            copies, broken = (), f"{type(error).__name__}: {error}"
        self.loaded_pages += len(copies)
        return StepPlan(self._step, self.instance, copies, broken)

    def follow(self, output: Any, claimed_from: dict[int, int]) -> None:
        """Before the step: what it may overwrite is fenced off when this returns, what is complete is announced.

        `claimed_from`: where the pages begin that the ranks put in place for a new request.
        """
        leader = self.leader
        if leader is None:
            return
        started = time.perf_counter_ns()
        self._holds.expire(leader.linked)
        for data in output.cached_requests:
            self._continue(leader, data)
        for data in output.new_requests:  # last: they may have found what the others have just completed
            self._begin(leader, data, claimed_from.get(int(data.request_id)))
        leader.account(time.perf_counter_ns() - started)
        self._end_step(leader)
        leader.begin_step(len(self._tables))
        self._is_in_step = True

    def claimed_from(self, output: Any) -> dict[int, int]:
        """To be asked before `next_plan`, which redeems the claims."""
        if self._loads is None:
            return {}
        ids = [int(data.request_id) for data in output.new_requests]
        return {request_id: first for request_id in ids if (first := self._loads.first_page(request_id)) is not None}

    def poll(self, finished: Sequence[int]) -> list[int]:
        """On rank 0, once per iteration: which ended requests' blocks may be freed. They are fenced off by then."""
        leader = self.leader
        if leader is None:
            return list(finished)
        if self._loads is not None:
            self._loads.polled()
        self._end_step(leader)
        self._holds.expire(leader.linked)
        return self._holds.report(finished)

    def _begin(self, leader: Leader, data: Any, claimed_from: int | None) -> None:
        request_id = int(data.request_id)
        old = self._tables.pop(request_id, None)
        if old is not None:
            self._let_go(old.pages)
        tokens = [int(token) for token in data.new_tokens]
        table = RequestTable(self._roots.pop(request_id, None), str(request_id), len(tokens), tokens)
        found = int(data.computed_position) // self._page_tokens
        # Some versions count what was claimed among the computed tokens, others do not.
        found = max(0, found if claimed_from is None else min(found, claimed_from))
        self._take_pages(leader, table, _pages_of(data), found)
        self._mark(table, found)
        self._tables[request_id] = table

    def _continue(self, leader: Leader, data: Any) -> None:
        table = self._tables.get(int(data.request_id))
        pages = _pages_of(data)
        if table is None:
            leader.raise_pages([page for page in pages if page > BAD_PAGE])
            return
        self._take_pages(leader, table, pages, 0)
        table.tokens.extend(int(token) for token in data.new_tokens)
        self._mark(table)
        if data.new_tokens:
            self._commit(leader, table)

    def _take_pages(self, leader: Leader, table: RequestTable, pages: Sequence[int], found: int) -> None:
        """The first `found` were in the engine's cache and stay as they are; the others will be written."""
        leader.raise_pages([page for page in pages[found:] if page > BAD_PAGE])
        table.add_pages(pages, leader.epoch)
        self._owners.add(pages)

    def _mark(self, table: RequestTable, found: int = 0) -> None:
        """Counts the keys of a request's new pages, the first `found` as found and the others as computed.

        Well before the engine's cache hears of what is computed.
        """
        if table.root is None:
            return
        end = min(len(table.pages), len(table.tokens) // self._page_tokens)
        for index in range(table.marked, end):
            if table.pages[index] > BAD_PAGE:
                count = self._holds.found if index < found else self._holds.computed
                count(table.key(index, self._page_tokens), table.pages[index])
        table.marked = max(table.marked, end)

    def _commit(self, leader: Leader, table: RequestTable) -> None:
        """Announces the pages of a request that have become complete."""
        size, end = self._page_tokens, table.complete_pages(self._page_tokens)
        for index in range(table.committed, end):
            page_id = table.pages[index]
            if table.root is None or page_id <= BAD_PAGE:
                continue
            leader.commit(
                page_id,
                table.epochs[index],
                0,
                table.key(index, size),
                table.key(index - 1, size) if index else ROOT,
                table.tokens[index * size : (index + 1) * size],
                flags_of(table.root),
                table.request_id,
            )
        table.committed = max(table.committed, end)

    def _is_stored(self, key: bytes) -> bool:
        return self.leader is not None and self.leader.has(key)

    def _let_go(self, pages: Sequence[int]) -> None:
        """One hold less on each. What nobody holds any more is fenced off."""
        free = self._owners.drop(pages)
        if self.leader is not None:
            self.leader.raise_pages(free)

    def _end_step(self, leader: Leader) -> None:
        if self._is_in_step:
            leader.end_step(len(self._tables))
            self._is_in_step = False


def staging_instance(instance: str) -> str:
    """Under which the ranks' staging memory attaches."""
    return f"{instance}-staging"


def _pages_of(data: Any) -> list[int]:
    """A request's new blocks. Raises UnsupportedError where there is more than one layer group."""
    groups = getattr(data, "new_block_ids_by_layer_group", None)
    if groups and len(groups) != 1:
        raise UnsupportedError(f"blocks of {len(groups)} layer groups")
    return [int(page) for page in (groups[0] if groups else data.new_block_ids)]
