"""Plugins that break one promise each: the nano engine's, with one thing done wrong. The kit must see every one.

Imported by the kit's child process. Each driver's `breaks` names the check that must fail, and what must be seen.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from rekindle_plugins.client import Rank, RankConfig
from rekindle_plugins.client.guard import Guard
from rekindle_plugins.client.leader import FillResult
from rekindle_plugins.contract import Adapter, EngineFacts, GroupGeometry, Launch, PluginInfo, Region, Run
from rekindle_plugins.nano.adapter import NanoAdapter
from rekindle_plugins.nano.driver import NanoDriver
from rekindle_plugins.nano.plugin import INFO
from rekindle_plugins.nano.shim import NanoShim

log = logging.getLogger("broken")
ROOT = bytes(32)


class Broken(NanoDriver):
    """Base of all. `breaks`: the check, and a part of what it must say. `also`: more checks that must fail."""

    breaks: ClassVar[tuple[str, str]]
    also: ClassVar[tuple[str, ...]] = ()
    adapter: ClassVar[type[Adapter]] = NanoAdapter


# -- commits and fences ----------------------------------------------------------------------------------------


class CommitsTooEarly(Broken):
    """A page is announced when its last token is scheduled, before it is computed."""

    breaks = ("commits", "its bytes changed under that epoch")

    def start(self, change: str) -> EngineFacts:
        facts = super().start(change)
        engine = self._engine
        run = engine._run

        def commit_and_run(work: Any) -> Any:
            request, tokens = work.request, facts.page_tokens
            request.extend_keys(tokens)
            for index in range(request.computed // tokens, (request.computed + work.tokens) // tokens):
                page = engine.scheduler._page(request, index)
                engine.hooks.page_complete(*page, request.request_id)
            return run(work)

        engine._run = commit_and_run  # type: ignore[method-assign]
        return facts


class ForgetsPages(Broken):
    """Every other page is not announced."""

    breaks = ("commits", "were committed as one chain")

    class shim(NanoShim):
        _count = 0

        def page_complete(self, *page: Any) -> None:
            self._count += 1
            if self._count % 2:
                super().page_complete(*page)


class NeverRaises(Broken):
    breaks = ("overwrite", "its bytes changed under that epoch")

    class shim(NanoShim):
        def pages_allocated(self, page_ids: Sequence[int]) -> None:
            pass


class RaisesAfterTheStep(Broken):
    breaks = ("overwrite", "before its fence was raised")

    class shim(NanoShim):
        def pages_allocated(self, page_ids: Sequence[int]) -> None:
            self._late = [*getattr(self, "_late", []), *page_ids]

        def step_done(self, running: int, waiting: int) -> None:
            super().pages_allocated(getattr(self, "_late", []))
            self._late: list[int] = []
            super().step_done(running, waiting)


class RaisesAfterTheStepUnderACopier(RaisesAfterTheStep):
    """The same, as a slow copier meets it."""

    breaks = ("overwrite-under-copy", "its bytes changed under that epoch")


# -- keys and geometry -----------------------------------------------------------------------------------------


class KeyIgnoresParent(Broken):
    breaks = ("keys", "stands for two prefixes")

    class shim(NanoShim):
        def page_complete(
            self, page_id: Any, key: bytes, parent: bytes, tokens: Sequence[int], request_id: str
        ) -> None:
            mine = hashlib.sha256(bytes(tokens)).digest()
            names = self.__dict__.setdefault("_names", {ROOT: ROOT})
            names[key] = mine
            super().page_complete(page_id, mine, names[parent], tokens, request_id)


class KeyIsOfThisProcess(Broken):
    breaks = ("keys", "other keys")

    class shim(NanoShim):
        def page_complete(
            self, page_id: Any, key: bytes, parent: bytes, tokens: Sequence[int], request_id: str
        ) -> None:
            def salted(plain: bytes) -> bytes:
                return plain if plain == ROOT else hashlib.sha256(plain + self._instance.encode()).digest()

            super().page_complete(page_id, salted(key), salted(parent), tokens, request_id)


class MissesALayer(Broken):
    breaks = ("restore", "wrong tokens")
    also = ("kill-after-commit", "kill-mid-decode", "kill-during-fill", "kill-after-restore")

    class shim(NanoShim):
        def share(self, cache: Any) -> tuple[Region, Sequence[int]]:
            geometry, half = cache.geometry, cache.page_bytes // 2
            group = GroupGeometry(geometry.page_tokens, (Run(0, 0, cache.page_bytes, half),))
            return Region(0, "shm", geometry.pages, (cache.total_bytes,), (group,)), (cache.fd,)


class DeclaresTooFewPages(Broken):
    breaks = ("geometry", "the region has 12 pages, the engine 24")

    class shim(NanoShim):
        def share(self, cache: Any) -> tuple[Region, Sequence[int]]:
            region, fds = super().share(cache)
            return replace(region, page_count=region.page_count // 2), fds


# -- identity, versions, life ----------------------------------------------------------------------------------


class LeavesWeightsOut(Broken):
    breaks = ("identity", "the identity differs in nothing")

    class shim(NanoShim):
        def initialize(self, cache: Any, blocks: Any) -> None:
            super().initialize(cache, blocks)
            self._identity = self._identity.with_field("model_files", "some")


class IsOfTheFuture(Broken):
    breaks = ("versions", "it was written for contract 1.7")

    class shim(NanoShim):
        info: ClassVar[PluginInfo] = replace(INFO, api_version=(1, 7))


class IgnoresItsHost(Broken):
    breaks = ("version-refusal", "said hello from a host of contract")

    class shim(NanoShim):
        def __init__(self, run_dir: str) -> None:
            check = PluginInfo.check
            PluginInfo.check = lambda *_, **__: None  # type: ignore[method-assign]
            try:
                super().__init__(run_dir)
            finally:
                PluginInfo.check = check  # type: ignore[method-assign]


class LinksTooEarly(Broken):
    breaks = ("life", "before the shim entered `attached`")

    class shim(NanoShim):
        def initialize(self, cache: Any, blocks: Any) -> None:
            super().initialize(cache, blocks)
            region, fds = self.share(cache)
            Rank(RankConfig(self._attach_path, "too-early", INFO, "1", 1), region, fds, log).start()


class LeavesALock(Broken):
    """What its engine writes down when it starts, and takes back when it ends in order, stops the next one."""

    breaks = ("kill-attached", "start raised")
    also = ("kill-before-attach", "kill-mid-prefill")

    def start(self, change: str) -> EngineFacts:
        with open(os.path.join(os.environ["REKINDLE_RUN_DIR"] + "-lock"), "x"):
            return super().start(change)


class HidesTheReason(Broken):
    breaks = ("sidecar-refuses", "the refusal in the engine's log")

    class shim(NanoShim):
        def __init__(self, run_dir: str) -> None:
            super().__init__(run_dir)
            logging.getLogger("rekindle.nano").disabled = True


class TakesEveryCommand(Broken):
    breaks = ("adapter", "for its engine")

    class adapter(NanoAdapter):
        def recognises(self, launch: Launch) -> bool:
            return True


class IsNeverFinalized(Broken):
    breaks = ("life", "wanted initialized → attached → finalized")

    class shim(NanoShim):
        def finalize(self) -> None:
            pass


# -- fills and resets ------------------------------------------------------------------------------------------


class UsesUnverifiedFills(Broken):
    breaks = ("fills-failed", "wrong tokens")

    class shim(NanoShim):
        def _loaded(self, result: FillResult) -> None:
            everything = (*result.ok, *(page for page, _ in result.failed))
            super()._loaded(FillResult(result.fill_id, everything, ()))


class DoesNotRestoreEagerly(Broken):
    breaks = ("eager-restore", "0 pages were taken back")

    class shim(NanoShim):
        def free_pages(self) -> int:
            return 0


class DoesNotRestoreLazily(Broken):
    breaks = ("lazy-restore", "were cached, wanted at least")

    class shim(NanoShim):
        def lookup(self, keys: Sequence[bytes], have: int) -> int:
            return 0


class TakesPagesBackUnderAFill(Broken):
    breaks = ("fills-late", "while they were being filled")

    class shim(NanoShim):
        def attach(self) -> None:
            super().attach()
            if self._eager is not None:
                for pages in self._eager._in_flight.values():
                    self._blocks.release(list(pages))  # type: ignore[arg-type]


class IgnoresResets(Broken):
    breaks = ("cache-reset", "`Leader.reset` was not called")

    class shim(NanoShim):
        def cache_reset(self) -> None:
            pass


class ResetsLate(Broken):
    """With the next step, which may never come."""

    breaks = ("cache-reset-killed", "a fresh engine got pages of before a reset")

    class shim(NanoShim):
        _is_reset = False

        def cache_reset(self) -> None:
            self._is_reset = True

        def step_done(self, running: int, waiting: int) -> None:
            if self._is_reset:
                self._is_reset = False
                super().cache_reset()
            super().step_done(running, waiting)


class ResetsToTheSameIdentity(Broken):
    breaks = ("cache-reset", "is the one before it")

    class shim(NanoShim):
        def cache_reset(self) -> None:
            self._leader.reset(self._identity)


# -- sidecars and faults ---------------------------------------------------------------------------------------


class WaitsForTheSidecar(Broken):
    breaks = ("sidecar-hung", "step did not return within")

    class shim(NanoShim):
        def step_done(self, running: int, waiting: int) -> None:
            super().step_done(running, waiting)
            while self._leader.linked and self._leader._journal.backlog:
                time.sleep(0.001)


class LooksForASidecarOnce(Broken):
    breaks = ("sidecar-absent", "a sidecar that came later")

    class shim(NanoShim):
        def attach(self) -> None:
            super().attach()
            if not self._leader.linked:
                self._leader.give_up()


class TakesNoUnknownFields(Broken):
    breaks = ("sidecar-upgraded", "newer sidecar")

    class shim(NanoShim):
        def attach(self) -> None:
            super().attach()
            link = self._leader.link
            take = link._on_message

            def strict(message: Any) -> None:
                if "of_a_newer_minor" in message.fields:
                    raise ValueError("a field that nobody knows")
                take(message)

            link._on_message = strict


class RaisesWhenTheSidecarIsGone(Broken):
    breaks = ("sidecar-restarted", "step raised")

    class shim(NanoShim):
        def step_done(self, running: int, waiting: int) -> None:
            self._was_linked = getattr(self, "_was_linked", False) or self._leader.linked
            if self._was_linked and not self._leader.linked:
                raise ConnectionError("where is the sidecar?")
            super().step_done(running, waiting)


class DoesNotAnnounceAgain(Broken):
    breaks = ("sidecar-restarted", "pages in the store")

    class shim(NanoShim):
        def step_done(self, running: int, waiting: int) -> None:
            super().step_done(running, waiting)
            self._leader._live.clear()


class LosesRecordsForGood(DoesNotAnnounceAgain):
    breaks = ("journal-overflow", "pages in the store")


class HasAnUnguardedHook(Broken):
    breaks = ("failing-hooks", "with commit broken: step raised")

    class shim(NanoShim):
        def page_complete(
            self, page_id: Any, key: bytes, parent: bytes, tokens: Sequence[int], request_id: str
        ) -> None:
            if self.guard.is_on:
                self._leader.commit(page_id, self._leader.epoch(page_id), 0, key, parent, tokens)


class LeavesPagesAnnounced(Broken):
    """Its guard turns the hooks off, and what it had announced stays so."""

    breaks = ("failing-hooks", "its bytes changed under that epoch")

    class shim(NanoShim):
        def __init__(self, run_dir: str) -> None:
            super().__init__(run_dir)
            self.guard = Guard(log)


BROKEN: tuple[type[Broken], ...] = tuple(
    kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, Broken) and kind is not Broken
)
