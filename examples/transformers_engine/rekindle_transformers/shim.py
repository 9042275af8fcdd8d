"""The shim: one engine start's leader and rank, and what they are told. Runs on the engine's generation thread.

    engine calls                       what the shim does                          by the hook (`hooks`)
    a processor is made                initialize: can it be protected?            protection
    the loop's first turn              attach: memory, both connections, restore   prepare_next_batch
    blocks are handed out              raise the fence, remember the epoch         CachePool.get_free_blocks
    a step begins                      heartbeat                                   prepare_next_batch
    a request's blocks are complete    commit                                      mark_complete_blocks
    a step's results are handled       one wake-up                                 update_batch
    the prefix cache is cleared        everything stored is void                   free_all_requests
    the manager stops                  finalize                                    protection

Attaching waits for the loop's first turn, and not for the cache alone, since the engine's warm-up in between writes to
any block, and resets the cache at its end. No request has been looked at by then.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

from rekindle_plugins.client.eager import EagerRestore, restore_eagerly
from rekindle_plugins.client.guard import Guard
from rekindle_plugins.client.leader import Leader, LeaderConfig
from rekindle_plugins.client.rank import Rank, RankConfig
from rekindle_plugins.client.shim import Shim
from rekindle_plugins.contract.adapter import RUN_DIR_VARIABLE
from rekindle_plugins.contract.errors import IdentityError
from rekindle_plugins.contract.journal import ROOT
from rekindle_plugins.contract.plugin import PluginInfo, Stage

from rekindle_transformers.engine_parts import UnsupportedError, parts_of
from rekindle_transformers.identity import identity_of
from rekindle_transformers.keys import PageContent
from rekindle_transformers.memory import share
from rekindle_transformers.plugin import INFO
from rekindle_transformers.restore_target import LedgerTarget

log = logging.getLogger("rekindle.transformers")

ATTACH_WAIT_S = 2.5
DEFAULT_RUN_DIR = "/run/rekindle"


class TransformersShim(Shim):
    """What happens to one processor's pages, told to the sidecar."""

    info: ClassVar[PluginInfo] = INFO

    def __init__(self) -> None:
        super().__init__()
        self.guard = Guard(log, self._give_up)
        self._instance = f"transformers-{uuid.uuid4().hex}"
        self._attach_path = os.path.join(os.environ.get(RUN_DIR_VARIABLE) or DEFAULT_RUN_DIR, "attach.sock")
        self._leader: Leader | None = None
        self._rank: Rank | None = None
        self._target: LedgerTarget | None = None
        self._eager: EagerRestore | None = None
        self._epochs: dict[int, int] = {}
        """The epoch of each page since it was handed out last. A commit under another one is refused."""
        self._contents: dict[int, PageContent] = {}
        """What each complete page holds."""
        self._resets = 0

    # -- life --------------------------------------------------------------------------------------------------

    def initialize(self, model: Any, processor: Any) -> None:
        """Raises UnsupportedError when this engine cannot be protected."""
        self.stages.enter(Stage.INITIALIZED)
        self.parts = parts_of(model, processor)

    def attach(self) -> None:
        """Raises UnsupportedError or IdentityError when the engine turns out not to be one that can be protected."""
        import transformers

        self.stages.enter(Stage.ATTACHED)
        parts = self.parts
        self._identity = identity_of(parts)
        region, fds = share(parts)
        version = transformers.__version__
        self._rank = Rank(RankConfig(self._attach_path, self._instance, INFO, version, 1), region, fds, log)
        self._leader = leader = Leader(
            LeaderConfig(
                self._attach_path,
                self._instance,
                INFO,
                version,
                self._identity,
                parts.page_count,
                (parts.page_tokens,),
                1,
            ),
            log,
        )
        self._rank.start()
        leader.start()
        leader.link.settled.wait(ATTACH_WAIT_S)
        if leader.linked:
            self._restore(leader)

    def _restore(self, leader: Leader) -> None:
        """Also when nothing is stored yet: the last pages of the engine before may just be being salvaged."""
        self._target = LedgerTarget(self.parts, self._restored)
        self._eager = restore_eagerly(leader, self._target, leader.restore_budget_s, self.parts.margin_pages)
        log.info(
            "rekindle: restored %d of %d pages (%d tokens) in %.3f s, rejected %s",
            self._eager.restored,
            self._eager.planned,
            self._eager.tokens,
            self._eager.seconds,
            self._eager.rejected or "none",
        )

    def _restored(self, page_id: int, content: PageContent) -> None:
        assert self._leader is not None
        self._contents[page_id] = content
        self._epochs[page_id] = self._leader.epoch(page_id)

    def finalize(self) -> None:
        self.stages.enter(Stage.FINALIZED)
        for part in (self._leader, self._rank):
            if part is not None:
                part.close()

    def _give_up(self) -> None:
        if self._leader is not None:
            self._leader.give_up()

    # -- the loop ----------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """The generation loop goes round, with work or without: attaches once, and takes what has arrived late."""
        if not self.guard.is_on:
            self._give_back()
        elif self.stages.stage is Stage.INITIALIZED:
            self.guard.call(None, self._attach_or_refuse)
        elif self._eager is not None and self._eager.pending:
            self.guard.call(None, self._take_late)

    def _attach_or_refuse(self) -> None:
        try:
            self.attach()
        except (UnsupportedError, IdentityError) as error:
            self.guard.turn_off(f"this engine is not protected: {error}")

    def _take_late(self) -> None:
        assert self._leader is not None
        assert self._eager is not None
        for result in self._leader.fills.poll():
            if self._eager.owns(result):
                self._eager.settle_late(result)

    def _give_back(self) -> None:
        """The shim is off: pages that it still reserves are the engine's again, once no copier can write into them."""
        if not self.is_holding or self._leader is None or self._leader.fills.outstanding:
            return
        target, self._target = self._target, None
        assert target is not None
        try:
            target.release(list(target.reserved))
        except Exception:
            log.exception("rekindle could not give %d pages back", len(target.reserved))

    def step_begins(self) -> None:
        if self._leader is not None:
            self._leader.begin_step(len(self.parts.processor.scheduler.active_requests))

    def step_done(self) -> None:
        if self._leader is not None:
            self._leader.end_step(len(self.parts.processor.scheduler.active_requests))

    # -- pages -------------------------------------------------------------------------------------------------

    def handed_out(self, page_ids: Sequence[int]) -> None:
        """Blocks have left the pool. Every block does so by this one way, before the step that writes to it."""
        leader = self._leader
        if leader is None:
            return
        leader.raise_pages(page_ids)
        for page_id in page_ids:
            self._epochs[page_id] = leader.epoch(page_id)
            self._contents.pop(page_id, None)

    def completed(self, request_id: str, token_ids: Sequence[int]) -> None:
        """A step's results are there, and the engine has entered the request's complete blocks into its ledger."""
        leader, parts = self._leader, self.parts
        if leader is None:
            return
        parent, size = ROOT, parts.page_tokens
        for index, page_id in enumerate(parts.allocator.block_table.get(request_id, ())):
            if page_id not in parts.ledger.block_to_hash:
                return
            tokens = tuple(token_ids[index * size : (index + 1) * size])
            content = self._contents.get(page_id)
            if content is None:
                content = PageContent.of(parent, tokens)
                self._contents[page_id] = content
                leader.commit(page_id, self._epochs[page_id], 0, content.key, parent, tokens, request_id=request_id)
            elif content.parent != parent or content.tokens != tokens:
                return  # its 64-bit hash has let the engine share a block of other tokens: not ours to hand on
            parent = content.key

    @property
    def is_holding(self) -> bool:
        """Whether pages are reserved for the restore: a copier may still be writing into them."""
        return self._target is not None and bool(self._target.reserved)

    def keep_reserved(self) -> None:
        """After the pool was reset, whether the shim is on or off: reserved pages stay out of the engine's hands."""
        if self._target is not None:
            self._target.keep_reserved()

    def cache_cleared(self) -> None:
        """The engine dropped its prefix cache; perhaps its weights were changed. Nothing stored counts any more.

        Pages committed from now on belong to this engine start alone: a fresh engine has the weights it was given.
        """
        if self._leader is None:
            return
        self._resets += 1
        self._contents.clear()
        self._leader.reset(self._identity.with_field("weight_version", f"{self._instance}:{self._resets}"))
