"""One attached engine, from its first hello to the release of its memory. Runs on the keeper's event loop.

The life is the state machine of `rekindle.lifecycle.machine`; `_happen` is the one place where its actions take effect.

    hello ×(1 + ranks) → acquire the store → copiers → welcome → [plan, fill …] → records → … → lost → salvage → release
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from rekindle_plugins.contract.errors import ProtocolError, RekindleError, StoreError
from rekindle_plugins.contract.identity import Identity
from rekindle_plugins.contract.wire import Message

from rekindle.backends import Backends
from rekindle.config import Config
from rekindle.keeper.attachment import Hello, LeaderAttachment, RankAttachment, read_generation
from rekindle.keeper.checkpoint import Checkpoint
from rekindle.keeper.engine_status import engine_status, step_age_s
from rekindle.keeper.gate import Gate
from rekindle.keeper.halves import Halves
from rekindle.keeper.hang_watch import HangWatch
from rekindle.keeper.lanes import open_lanes
from rekindle.keeper.peer import Peer
from rekindle.keeper.planning import MAX_PLAN_PAGES, read_fill_rows, read_restored, send_plan
from rekindle.keeper.reports import Reports
from rekindle.keeper.salvage import FINAL_BUDGET_S, salvage
from rekindle.keeper.stores import OpenStore, Stores
from rekindle.keeper.suspects import Suspects
from rekindle.keeper.tally import Tally
from rekindle.keeper.tasks import Tasks
from rekindle.keeper.transfers import Transfers
from rekindle.keeper.trial import WITHHELD, Trial
from rekindle.lifecycle.machine import Action, Event, State, step
from rekindle.lifecycle.status import EngineStatus
from rekindle.lifecycle.suspicion import Life

log = logging.getLogger("rekindle.engine")

MAX_RESETS = 64
STOP_LIMIT_S = 10.0
"""How long a stop waits for an engine's copiers. One in the depths of a driver may not die before that returns."""


class Engine:
    """See the module's text. `on_released` is called once, when nothing of ours holds the engine's memory any more."""

    def __init__(
        self,
        hello: Hello,
        config: Config,
        stores: Stores,
        suspects: Suspects,
        backends: Backends,
        reports: Reports,
        salvages: Callable[[], Any],
        on_released: Callable[[Engine], None],
        gate: Gate,
    ) -> None:
        self.hello = hello
        self.instance = hello.instance
        self.world_size = hello.world_size
        self.state = State.WAITING
        self.tally = Tally()
        self.attached_at = time.monotonic()
        self.note = ""
        self.salvaged = asyncio.Event()
        """What it left behind is in the store. Its copiers may live a little longer; the slots they use stay theirs."""
        self.store: OpenStore | None = None
        self._config = config
        self._stores = stores
        self._suspects = suspects
        self._backends = backends
        self._reports = reports
        self._salvages = salvages
        self._on_released = on_released
        self._gate = gate
        self._halves = Halves(hello)
        self._checkpoint: Checkpoint | None = None
        self.watch: HangWatch | None = None
        self._trial: Trial | None = None
        self._is_stopping = False
        self._resetting = asyncio.Lock()
        self._resets = 0
        """Resets that wait for those before them, or are under way."""
        self._going: Transfers | None = None
        """The transfers whose copiers were told to go last."""
        self._opening: asyncio.Task[None] | None = None
        self._planning: asyncio.Task[None] | None = None
        self._spawn = Tasks(hello.instance).spawn
        self._lost_at = 0.0
        self._why_lost = ""
        self._death: dict[str, float | int] = {}
        self._death_report = 0
        self._last_restore: tuple[int, int, dict[str, int], float] = (0, 0, {}, 0.0)
        self._released = False

    # -- attaching ---------------------------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return self.state in (State.WAITING, State.ATTACHED, State.RESTORING, State.RUNNING) and not self._lost_at

    @property
    def peers(self) -> list[Peer]:
        return self._halves.peers

    @property
    def identity_name(self) -> str:
        return self._halves.identity_name

    @property
    def _leader(self) -> LeaderAttachment | None:
        return self._halves.leader

    def add_leader(self, leader: LeaderAttachment) -> None:
        """Raises ProtocolError, GeometryError; see `Halves`."""
        self._halves.add_leader(leader)
        self._complete()

    def add_rank(self, rank: RankAttachment) -> None:
        """Raises ProtocolError, GeometryError; see `Halves`."""
        self._halves.add_rank(rank)
        rank.peer.send("welcome", state=self.state.value, stored_pages=0, restore_budget_s=0)
        self._complete()

    def _complete(self) -> None:
        if self._halves.are_complete and self._opening is None:
            self._opening = self._spawn(self._open())

    async def _open(self) -> None:
        """Leader and all ranks are here: get the store, start the copiers, welcome the leader."""
        leader = self._leader
        assert leader is not None
        try:
            for identity in leader.purge:
                await self._stores.purge(self._halves.with_layout(identity))
            leader.identity = self._halves.with_layout(leader.identity)
            backend = self.hello.plugin.name
            self._backends.admit(backend, leader.identity, self.hello.engine_version)
            others = await self._stores.mismatches(leader.identity, partial(self._backends.judge, backend))
            self.store = await self._stores.acquire(leader.identity, self._halves.page_geometry())
        except Exception as error:
            self._refuse(leader, error)
            return
        if self._lost_at:
            self._release_store()
            return
        self.watch = watch = HangWatch(self.instance, leader.journal, self._config.hang_timeout_s)
        self._checkpoint = Checkpoint(
            self.instance, leader, self.tally, watch.wake, self._committed, lambda: self.is_alive, self._gate
        )
        self._welcome()  # before the copiers' lifelines, which mean nothing to a leader that is not welcomed
        self._happen(Event.ATTACHED)
        stored = self.store.catalog.counters().stored
        mismatches = () if stored else others
        suspicion = self._trial.text if self._trial is not None else ""
        reported = self._reports.attached(self.identity_name, self.instance, stored, mismatches, suspicion)
        self.tally.restarts += reported
        for mismatch in mismatches:
            log.warning("event=identity_mismatch instance=%s field=%r", self.instance, mismatch)
        self._checkpoint.start()
        watch.wake()  # it may have work already: the sidecar came back

    def _refuse(self, leader: LeaderAttachment, error: Exception) -> None:
        """Whatever went wrong, the engine is told: else it would wait."""
        if not isinstance(error, RekindleError):
            log.error("event=internal_error instance=%s error=%r", self.instance, error, exc_info=error)
            error = StoreError("open", f"store of {self.instance}", f"{type(error).__name__}: {error}")
        log.warning("event=engine_refused instance=%s error=%s", self.instance, error)
        self.note = str(error)
        leader.peer.refuse(error)

    def _welcome(self) -> None:
        assert self._leader is not None
        assert self.store is not None
        self._trial = trial = Trial(self.instance, self.store, self._suspects)
        self._leader.peer.send(
            "welcome",
            [trial.presence_fd],
            state=self.state.value,
            stored_pages=trial.stored_pages,
            restore_budget_s=self._config.restore_budget_s,
            fill_timeout_s=self._config.fill_timeout_s,
        )

    # -- messages ----------------------------------------------------------------------------------------------

    def take_message(self, peer: Peer, message: Message) -> None:
        """Anything after hello. Raises ProtocolError for what cannot be."""
        if self._leader is None or peer is not self._leader.peer or message.fds:
            raise ProtocolError("receive", f"{message.type} from {peer.name}", "it is out of order")
        if message.type == "plan":
            if self._planning is not None and not self._planning.done():
                raise ProtocolError("receive", f"plan from {peer.name}", "the one before is not answered yet")
            self._planning = self._spawn(self._plan(message["plan_id"], message["max_pages"]))
        elif message.type == "fill":
            self._fill(message)
        elif message.type == "reset":
            identity, generation = Identity.from_json(message["identity"]), read_generation(message, peer)
            if self._resets >= MAX_RESETS:
                raise ProtocolError("receive", f"reset from {peer.name}", f"{MAX_RESETS} are not answered yet")
            self._resets += 1
            self._spawn(self._reset(identity, generation))
        elif message.type == "requests":
            if self.store is not None:  # else it belongs to what a reset has just made void
                self.store.requests.take(message["requests"], peer.name)
        elif message.type == "report":
            self._last_restore = read_restored(message, self.instance)
            self._happen(Event.RESTORE_ENDED)
        else:
            raise ProtocolError("receive", f"{message.type} from {peer.name}", "it is out of order")

    async def _plan(self, plan_id: int, max_pages: int) -> None:
        """Answers which pages could come back, after earlier engines' last pages have been salvaged."""
        await self._salvages()
        trial = self._trial
        if self._leader is None or self.store is None or trial is None or not self.is_alive:
            return
        self._happen(Event.PLAN_ASKED)
        await send_plan(self._leader.peer, plan_id, trial.plan(max(0, min(max_pages, MAX_PLAN_PAGES))))

    def _fill(self, message: Message) -> None:
        leader = self._leader
        assert leader is not None
        rows = read_fill_rows(message["pages"], leader.page_count, len(leader.group_tokens), leader.peer.name)
        checkpoint, trial = self._checkpoint, self._trial
        transfers = checkpoint.transfers if checkpoint is not None else None
        # A fill behind a reset is read before the reset has begun; but the generation was raised before both were sent.
        if checkpoint is None or transfers is None or trial is None or checkpoint.is_void:
            self._answer(message["fill_id"], [(row.page_id, "resetting") for row in rows])
            return
        refused = trial.refused(rows)
        if refused:
            self._answer(message["fill_id"], [(row.page_id, WITHHELD) for row in refused])
            rows = [row for row in rows if row not in refused]
        trial.was_given_pages |= bool(rows)
        transfers.fill(message["fill_id"], rows)
        transfers.flush()

    async def _reset(self, identity: Identity, generation: int) -> None:
        """The engine's cache is void. What it had committed is gone; what comes now belongs to `identity`.

        One after the other, in the order in which they came: each is answered with a welcome.
        """
        try:
            async with self._resetting:
                await self._reset_alone(identity, generation)
        finally:
            self._resets -= 1

    async def _reset_alone(self, identity: Identity, generation: int) -> None:
        leader, store, checkpoint = self._leader, self.store, self._checkpoint
        if leader is None or store is None or checkpoint is None or not self.is_alive:
            return
        log.warning("event=cache_reset instance=%s", self.instance)
        store.catalog.clear()
        await self._let_go()
        if not self.is_alive:
            return
        self._release_store()
        try:
            identity = self._halves.with_layout(identity)
        except RekindleError as error:
            self._refuse(leader, error)
            return
        leader.identity = identity
        checkpoint.restart(generation)
        await self._return_to_store(leader, identity, checkpoint)

    async def exchange_store(self, exchange: Callable[[], Awaitable[None]]) -> None:
        """Lets go of the store while `exchange` puts another one of the same identity in its place."""
        async with self._resetting:
            leader, checkpoint = self._leader, self._checkpoint
            if leader is None or checkpoint is None or not self.is_alive:
                return await exchange()
            await self._let_go()
            self._release_store()
            try:
                await exchange()
            finally:
                if self.is_alive:
                    await self._return_to_store(leader, leader.identity, checkpoint)

    async def _return_to_store(self, leader: LeaderAttachment, identity: Identity, checkpoint: Checkpoint) -> None:
        """The store of `identity`, copiers on it, and a welcome; or a refusal."""
        try:
            self.store = await self._stores.acquire(identity, self._halves.page_geometry())
        except Exception as error:
            self._refuse(leader, error)
            return
        if not self.is_alive:
            self._release_store()
            return
        self._welcome()
        self._start_copiers()
        checkpoint.pump_soon()  # a ring that came while there was nobody to copy has been heard and forgotten

    def _answer(self, fill_id: int, pages: list[tuple[int, str]]) -> None:
        if self._leader is not None:
            self._leader.peer.send("filled", fill_id=fill_id, pages=[list(page) for page in pages])

    # -- the state machine's actions ---------------------------------------------------------------------------

    def _happen(self, event: Event) -> None:
        before = self.state
        self.state, actions = step(self.state, event)
        if self.state is not before:
            log.info("event=state instance=%s from=%s to=%s", self.instance, before.value, self.state.value)
        for action in actions:
            if action is Action.START_COPIERS:
                self._start_copiers()
            elif action is Action.SALVAGE:
                self._spawn(self._salvage())
            elif action is Action.RELEASE:
                self._release()
            elif action is Action.REPORT_PLAN:
                self._reports.asked(self.identity_name)
            elif action is Action.REPORT_RESTORE:
                self._reports.restored(self.identity_name, *self._last_restore)
            elif action is Action.REPORT_DEATH:
                self._report_death()
            elif action is Action.REPORT_RELEASE:
                self._reports.released(self._death_report, **self._death)

    def _report_death(self) -> None:
        silent_s = step_age_s(self._halves.heartbeat)
        self.tally.deaths += 1
        self._death_report = self._reports.died(
            self.identity_name, self.instance, self._why_lost, self._lost_at, silent_s
        )

    async def _prove(self, trial: Trial) -> None:
        if await trial.prove():
            self.announce_again()

    def _committed(self) -> None:
        if self.state in (State.ATTACHED, State.RESTORING):
            self._happen(Event.COMMITTED)
        if self._trial is not None and not self._trial.is_over and self._life(self._trial).is_healthy:
            self._spawn(self._prove(self._trial))

    def _life(self, trial: Trial) -> Life:
        """While the journal is there."""
        beat = self._halves.heartbeat
        assert beat is not None
        return trial.life(self.state is State.RESTORING, beat)

    def _start_copiers(self) -> None:
        leader, store, checkpoint = self._leader, self.store, self._checkpoint
        assert leader is not None
        assert store is not None
        assert checkpoint is not None
        open_lanes(
            leader,
            self._halves.ranks,
            store,
            self._stores.store.lock_fd,
            checkpoint,
            self.tally,
            self._answer,
            self._copier_crashed,
            timeout_s=self._config.copier_timeout_s,
            bandwidth=self._config.copy_bandwidth,
        )

    def _copier_crashed(self, reason: str) -> None:
        self.note = f"a copier was lost: {reason}"[:400]
        self.tally.copier_crashes += 1

    @property
    def page_count(self) -> int:
        return self._halves.page_count

    @property
    def pending(self) -> int:
        return self._checkpoint.pending if self._checkpoint is not None and not self._released else 0

    def pump_soon(self) -> None:
        """An operator's pause is over."""
        if self._checkpoint is not None:
            self._checkpoint.pump_soon()

    def announce_again(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.announce_again()

    # -- the end -----------------------------------------------------------------------------------------------

    def peer_closed(self, peer: Peer, reason: str) -> None:
        """One of its connections ended: the engine counts as dead, and its other halves have to come anew."""
        if self._lost_at:
            return
        self._lost_at = time.monotonic()
        self._why_lost = reason
        log.warning("event=engine_lost instance=%s peer=%s reason=%r", self.instance, peer.name, reason)
        if self.watch is not None:
            self.watch.stop()
        if self._trial is not None and not self._is_stopping:
            self._trial.ended(self._life(self._trial))
        for other in self.peers:
            other.close("another half of its engine is gone")
        self._happen(Event.LOST)

    async def _salvage(self) -> None:
        """Saves what can be saved, and lets go of the engine's memory whatever happens on the way."""
        self._happen(Event.SALVAGE_BEGUN)
        checkpoint = self._checkpoint
        before, committed, unsaved = self.tally.checkpointed, self.tally.committed, 0
        try:
            if checkpoint is not None:
                catalog = self.store.catalog if self.store is not None else None
                unsaved = await salvage(checkpoint, catalog, self._lost_at, self._salvage_budget_s)
        finally:
            salvage_s = time.monotonic() - self._lost_at
            self.salvaged.set()
            await self._let_go()
            self._death = {
                "pages_committed": committed,
                "pages_salvaged": self.tally.checkpointed - before,
                "pages_unsaved": unsaved,
                "salvage_s": salvage_s,
                "release_s": time.monotonic() - self._lost_at,
            }
            self._happen(Event.SALVAGE_ENDED)

    def _salvage_budget_s(self) -> float:
        return FINAL_BUDGET_S if self._is_stopping else self._config.salvage_budget_s

    async def _let_go(self) -> None:
        """No copier of this engine exists after this. Their death also ends their mappings."""
        checkpoint = self._checkpoint
        if checkpoint is not None and checkpoint.transfers is not None:
            self._going, checkpoint.transfers = checkpoint.transfers, None
        if self._going is not None:  # also when a reset has let go of them, and still waits for their end
            await self._going.close()

    def _release(self) -> None:
        if self._released:
            return
        self.counted()
        self._released = True
        self.salvaged.set()
        if self._checkpoint is not None:
            self._checkpoint.close()
        self._halves.close()
        self._release_store()
        self._on_released(self)

    def _release_store(self) -> None:
        if self._trial is not None:
            self._trial.close()
            self._trial = None
        if self.store is not None:
            self._stores.release(self.store)
            self.store = None

    async def stop(self) -> None:
        """The sidecar ends: everything is let go of, the engine is untouched."""
        self._is_stopping = True
        if not self._lost_at:
            for peer in self.peers[:1]:
                peer.close("the sidecar is stopping")
        deadline = time.monotonic() + self._config.salvage_budget_s + STOP_LIMIT_S
        while not self._released:
            if time.monotonic() > deadline:
                log.error("event=not_released instance=%s reason='a copier does not die'", self.instance)
                return
            await asyncio.sleep(0.005)

    # -- status ------------------------------------------------------------------------------------------------

    def counted(self) -> Tally:
        """The tally, up to now: its steps are counted by the engine."""
        beat = self._halves.heartbeat
        self.tally.steps = beat.steps_finished if beat is not None else self.tally.steps
        return self.tally

    def status(self) -> EngineStatus:
        if self.watch is not None:
            self.watch.wake()
        return engine_status(
            self.hello,
            self.state,
            None if self._released else self._leader,
            None if self._released else self._checkpoint,
            self.watch,
            self.tally,
            ranks_attached=len(self._halves.ranks),
            identity=self.identity_name,
            attached_s=time.monotonic() - self.attached_at,
            note=self.note,
        )
