"""The keeper: listens on attach.sock, pairs leaders with ranks, and owns the engines and the stores.

One asyncio event loop, one thread (plus a worker thread while an arena is being opened). It idles without timers: it is
woken by the attach socket, the engines' eventfds, and the copiers.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version

from rekindle_plugins.contract.errors import InUseError, ProtocolError, RekindleError, StoreError, UnavailableError
from rekindle_plugins.contract.wire import Message, check_peer

from rekindle.backends import Backends
from rekindle.config import Config
from rekindle.keeper.attachment import Hello, LeaderAttachment, RankAttachment
from rekindle.keeper.engine import Engine
from rekindle.keeper.gate import Gate
from rekindle.keeper.ledger import Ledger, backend_totals, copier_totals, summed
from rekindle.keeper.operator import Operator
from rekindle.keeper.peer import Peer
from rekindle.keeper.reports import Reports
from rekindle.keeper.serving import Serving, Told
from rekindle.keeper.stores import Stores
from rekindle.keeper.suspects import Suspects
from rekindle.keeper.tally import Tally
from rekindle.lifecycle.status import EngineStatus, KeeperStatus, StoreStatus
from rekindle.lifecycle.totals import Totals
from rekindle.store.room import check_room
from rekindle.store.store import Store

log = logging.getLogger("rekindle.keeper")

MAX_PEERS = 256
HELLO_TIMEOUT_S = 5.0
ACCEPT_PAUSE_S = 0.5
LOCK_WAIT_S = 5.0
LOCK_POLL_S = 0.02


class Keeper:
    """`start`, then serve until `stop`. Everything runs on the event loop that called `start`."""

    def __init__(self, config: Config, backends: Backends) -> None:
        self.config = config
        self.backends = backends
        self.refused: Counter[str] = Counter()
        self.serving = Serving()
        self._engines: dict[str, Engine] = {}
        self._dying: set[Engine] = set()
        self._owners: dict[Peer, Engine] = {}
        self._strangers: dict[Peer, asyncio.TimerHandle] = {}
        self._started = time.monotonic()
        self._listener: socket.socket | None = None
        self._run_lock: int | None = None
        self._stores: Stores | None = None
        self._suspects: Suspects | None = None
        self._reports = Reports(config.run_dir)
        self._ledger = Ledger()
        self._gate = Gate()
        self._operator: Operator | None = None

    # -- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises InUseError when another sidecar has a directory, StoreError when one cannot be made or has no room."""
        self._prepare_run_dir()
        self._stores = Stores(await self._open_store())
        for warning in check_room(self.config.store_dir, self.config.store_size_bytes):
            log.warning("event=store_room problem=%r", warning)
        self._suspects = Suspects(self.config.store_dir)
        await self._stores.open_latest()
        self._operator = operator = Operator.of(
            self._stores, self.backends, self._reports, self._gate, lambda: [*self._engines.values(), *self._dying]
        )
        operator.events.start()
        path = self.config.run_dir / "attach.sock"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        listener.bind(str(path))
        path.chmod(0o666 if self._others_may_attach else 0o600)
        listener.listen(64)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)
        log.info("event=listening socket=%s store=%s", path, self.config.store_dir)

    async def stop(self) -> None:
        """Lets go of every engine and closes the store. The engines are not touched; the pages stay."""
        loop = asyncio.get_running_loop()
        if self._listener is not None:
            loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                (self.config.run_dir / "attach.sock").unlink()
        for peer in list(self._strangers):
            peer.close("the sidecar is stopping")
        await asyncio.gather(*(engine.stop() for engine in [*self._engines.values(), *self._dying]))
        if self._stores is not None:
            await self._stores.close()
            self._stores = None
        if self._operator is not None:
            self._operator.close()
            self._operator = None
        if self._run_lock is not None:
            os.close(self._run_lock)
            self._run_lock = None

    @property
    def _others_may_attach(self) -> bool:
        """Then they have to be able to reach the socket; the kernel's word on who they are is checked in any case."""
        return bool(self.config.allow_uids - {os.geteuid(), 0})

    def _prepare_run_dir(self) -> None:
        """As private as may be, and ours alone: the lock tells a stale socket from a live one."""
        run_dir = self.config.run_dir
        try:
            run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if run_dir.stat().st_uid == os.geteuid():  # a pod's shared volume is root's, and stays as it is
                run_dir.chmod(0o711 if self._others_may_attach else 0o700)
            fd = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError("use", f"run directory {run_dir}", str(error), "choose another with --run-dir") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            hint = "stop that one, or give this one its own --run-dir"
            raise InUseError("use", f"run directory {run_dir}", "a live sidecar has it", hint) from error
        self._run_lock = fd

    async def _open_store(self) -> Store:
        """The store's lock may be held for a moment by copiers of a sidecar that was just killed."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                return Store(self.config.store_dir, self.config.store_size_bytes)
            except InUseError:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(LOCK_POLL_S)

    # -- connections -------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(16):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            try:
                pid = check_peer(sock, self.config.allow_uids)
                if len(self._strangers) + len(self._owners) >= MAX_PEERS:
                    raise ProtocolError("attach", f"process {pid}", f"there are {MAX_PEERS} connections already")
                self._gate.check_admission(f"process {pid}")
            except RekindleError as error:
                Peer(sock, 0, lambda _, __: None, lambda _, __: None, self._count_refusal).refuse(error)
                continue
            peer = Peer(sock, pid, self._take_message, self._peer_closed, self._count_refusal)
            loop = asyncio.get_running_loop()
            self._strangers[peer] = loop.call_later(HELLO_TIMEOUT_S, peer.close, "it said no hello")

    def _pause_accepting(self, error: OSError) -> None:
        """Without room for one more descriptor the listener stays readable: looking again at once would never end."""
        loop, listener = asyncio.get_running_loop(), self._listener
        assert listener is not None
        log.warning("event=accept_failed error=%s", error)
        loop.remove_reader(listener)
        loop.call_later(ACCEPT_PAUSE_S, lambda: listener is self._listener and loop.add_reader(listener, self._accept))

    def _take_message(self, peer: Peer, message: Message) -> None:
        engine = self._owners.get(peer)
        if engine is not None:
            engine.take_message(peer, message)
        elif message.type == "hello":
            self._take_hello(peer, message)
        else:
            raise ProtocolError("attach", peer.name, f"its first message is {message.type}, not hello")

    def _take_hello(self, peer: Peer, message: Message) -> None:
        hello = Hello.of(peer, message)
        role = message["role"]
        leader = LeaderAttachment.of(peer, message) if role == "leader" else None
        rank = RankAttachment.of(peer, message) if role == "rank" else None
        attachment = leader or rank
        if attachment is None:
            raise ProtocolError("attach", peer.name, f"its role is {role!r:.40}, wanted leader or rank")
        try:
            engine = self._engine_for(hello)
            if leader is not None:
                engine.add_leader(leader)
            elif rank is not None:
                engine.add_rank(rank)
        except BaseException:
            attachment.close()
            self._forget_empty(hello.instance)
            raise
        self._strangers.pop(peer).cancel()
        self._owners[peer] = engine
        if leader is not None:
            self.serving.came(hello.instance, Told(hello.plugin.name, leader.serving))

    def _forget_empty(self, instance: str) -> None:
        engine = self._engines.get(instance)
        if engine is not None and not engine.peers:
            del self._engines[instance]

    def _engine_for(self, hello: Hello) -> Engine:
        assert self._stores is not None
        assert self._suspects is not None
        instance = hello.instance
        engine = self._engines.get(instance)
        if engine is not None:
            for peer in engine.peers:
                peer.notice_end()  # the engine may have come back before we saw it go
            engine = self._engines.get(instance)
        if engine is None:
            engine = Engine(
                hello,
                self.config,
                self._stores,
                self._suspects,
                self.backends,
                self._reports,
                self._salvages,
                self._engine_released,
                self._gate,
            )
            self._engines[instance] = engine
        for what, ours, theirs in (
            ("world of ranks", hello.world_size, engine.hello.world_size),
            ("plugin", hello.plugin, engine.hello.plugin),
        ):
            if ours != theirs:
                raise ProtocolError("attach", f"engine {instance}", f"its {what} is {ours}, another half says {theirs}")
        return engine

    def _peer_closed(self, peer: Peer, reason: str) -> None:
        timer = self._strangers.pop(peer, None)
        if timer is not None:
            timer.cancel()
            return
        engine = self._owners.pop(peer, None)
        if engine is None:
            return
        if self._engines.get(engine.instance) is engine:
            del self._engines[engine.instance]
            self._dying.add(engine)
            self.serving.went(engine.instance)
        engine.peer_closed(peer, reason)

    def _engine_released(self, engine: Engine) -> None:
        self._dying.discard(engine)
        self._ledger.settle(engine.hello.plugin.name, engine.tally)

    async def _salvages(self) -> None:
        """Until the last pages of every dead engine are in the store."""
        while waiting := [engine for engine in self._dying if not engine.salvaged.is_set()]:
            await waiting[0].salvaged.wait()

    def _count_refusal(self, error: RekindleError) -> None:
        self.refused[error.code] += 1
        log.warning("event=refused code=%s error=%s", error.code, error)

    def tell_silent(self, is_silent: bool) -> None:
        """The server that the stream proxy talks to leaves everything without an answer, or answers again.

        Whose server it is, is known only where one engine is attached: of several, none is held responsible.
        """
        engines = list(self._engines.values())
        for engine in engines:
            if engine.watch is not None:
                engine.watch.told_silent(is_silent and len(engines) == 1)

    # -- status ------------------------------------------------------------------------------------------------

    @property
    def operator(self) -> Operator:
        """What an operator may do. Raises UnavailableError while nothing is open."""
        if self._operator is None:
            raise UnavailableError("use", "the sidecar", "it is starting, or stopping", "try again in a moment")
        return self._operator

    def status(self) -> KeeperStatus:
        engines = [*self._engines.values(), *self._dying]
        whole = summed(self._tallies().values())
        return KeeperStatus(
            version=_version(),
            uptime_s=time.monotonic() - self._started,
            ready=self._listener is not None,
            mode=self._gate.mode.value,
            engines=tuple(engine.status() for engine in engines),
            stores=self._store_statuses(),
            last_recovery=self._reports.last,
            refused=dict(self.refused),
            copier_crashes=whole.copier_crashes,
            bytes_checkpointed=whole.bytes_checkpointed,
            bytes_restored=whole.bytes_restored,
            restarts=whole.restarts,
        )

    def totals(self) -> Totals:
        """What has been counted since we started, for the metrics."""
        tallies = self._tallies()
        return Totals(
            backends={name: backend_totals(tally) for name, tally in tallies.items()},
            copiers=copier_totals(summed(tallies.values())),
            phases=self._reports.phases,
            recoveries=self._reports.finished,
            evicted=self._stores.evicted if self._stores is not None else 0,
        )

    def _tallies(self) -> dict[str, Tally]:
        engines = [*self._engines.values(), *self._dying]
        return self._ledger.by_backend((engine.hello.plugin.name, engine.counted()) for engine in engines)

    def engine_statuses(self) -> list[EngineStatus]:
        return [engine.status() for engine in self._engines.values()]

    def _store_statuses(self) -> tuple[StoreStatus, ...]:
        if self._stores is None:
            return ()
        found = []
        for store in self._stores.open_stores.values():
            counters = store.catalog.counters()
            found.append(
                StoreStatus(
                    directory=str(self.config.store_dir),
                    size_bytes=store.arena.geometry.file_bytes,
                    used_bytes=counters.stored_bytes,
                    slots=counters.slot_count,
                    pages=counters.stored,
                    pinned=counters.pinned,
                    evicted=counters.evicted_total,
                    identity=store.identity.digest.hex()[:12],
                    messages=store.report.messages,
                )
            )
        return tuple(found)


def _version() -> str:
    try:
        return version("rekindle")
    except PackageNotFoundError:
        return "0"
