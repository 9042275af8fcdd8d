"""What ``rekindle run`` does: keeps one sidecar and one engine alive, each without regard to the other.

One process, one event loop, two loops on it: ``_keep_sidecar`` and ``_keep_engine``. The engine's end decides: exit 0
stops everything (but not of a server that has attached: those do not end by themselves), anything else is followed by
a restart after a growing pause. A stop from outside goes the same
way, with SIGTERM to the engine's group, and SIGKILL after the grace time; so does a hang, which the sidecar tells of
(``engine_watch``), and a restart follows. The sidecar is stopped after the engine, and before it ends it saves what
the engine had (``keeper.salvage``).
"""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rekindle_plugins.contract.errors import UnavailableError

from rekindle.cli.child import Child, outcome
from rekindle.cli.engine_watch import EngineWatch, Hang

Reason = TypeVar("Reason")

_POLL_S = 0.05
_ADOPTED_POLL_S = 0.5


@dataclass(frozen=True)
class Policy:
    """The times of a supervisor, in seconds."""

    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    healthy_s: float = 60.0
    """A child that lived this long starts again with the first pause."""
    grace_s: float = 15.0
    """Between SIGTERM and SIGKILL."""
    hung_grace_s: float = 5.0
    """The most of it for an engine that hangs: only its other processes can make use of it."""
    watch_period_s: float = 3.0
    """Between two questions to the sidecar about the engine."""
    sidecar_start_s: float = 30.0


@dataclass
class Pauses:
    """How long to wait before the next start of one child."""

    policy: Policy
    _next_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._next_s = self.policy.first_pause_s

    def after(self, lived_s: float) -> float:
        """The pause after a child that lived ``lived_s``: doubling, until one was healthy."""
        if lived_s >= self.policy.healthy_s:
            self._next_s = self.policy.first_pause_s
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self.policy.longest_pause_s)
        return pause_s


@dataclass(frozen=True)
class Plan:
    """What to run. ``sidecar`` and ``engine`` are whole command lines."""

    sidecar: Sequence[str]
    sidecar_environment: Mapping[str, str]
    admin_socket: Path
    engine: Sequence[str]
    engine_environment: Mapping[str, str]
    serves_until_stopped: bool = False
    """As the adapter's."""


class SidecarFailedError(Exception):
    """The first sidecar ended before it served; it has said why. ``code`` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"sidecar exited with {code}")
        self.code = code


class Supervisor:
    """Runs one plan once. ``say`` gets one line per event."""

    def __init__(self, plan: Plan, policy: Policy, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._policy = policy
        self._say = say
        self._stop = asyncio.Event()
        """The engine is to end, and is not to be started again."""
        self._engine_over = asyncio.Event()

    async def run(self) -> int:
        """Until the engine exits with 0, or a stop is asked for; the engine's last exit code, 128+n for a signal.

        Raises:
            SidecarFailedError: the sidecar could not start; the engine was not started.
            UnavailableError: the sidecar is there, and does not answer.
            ConfigError: the engine's program cannot be run.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop_asked, number)
        sidecar = await self._first_sidecar()
        keeping = asyncio.create_task(self._keep_sidecar(sidecar), name="sidecar")
        try:
            code = await self._keep_engine()
        finally:
            # Also after an error: nothing that we started may stay behind.
            self._engine_over.set()
            await keeping
        return code if code >= 0 else 128 - code

    def _stop_asked(self, number: signal.Signals) -> None:
        self._say(f"got {number.name}, stopping")
        self._stop.set()

    async def _keep_engine(self) -> int:
        pauses = Pauses(self._policy)
        starts = 0
        code = 0
        while not self._stop.is_set():
            starts += 1
            child = Child.start(self._plan.engine, self._plan.engine_environment)
            self._say(f"engine started: pid {child.pid}, start {starts}")
            watch = self._watch(child)
            code, hang = await self._until_ended_or(self._stopped_or_hung(watch, child), child)
            if child.group_is_alive():
                self._say(f"engine left processes that do not die, group {child.pid}")
            is_done = code == 0 and hang is None and not (self._plan.serves_until_stopped and watch.has_attached)
            if self._stop.is_set() or is_done:
                self._say(f"engine {outcome(code)}, not restarted")
                return code
            # The time that it hung is no healthy life.
            pause_s = pauses.after(child.age_s - (hang.stalled_s if hang is not None else 0.0))
            self._say(f"engine {outcome(code)} after {child.age_s:.1f} s, restart in {pause_s:g} s")
            await _set_within(self._stop, pause_s)
        return code

    def _watch(self, child: Child) -> EngineWatch:
        def tell() -> None:
            self._say(f"engine, pid {child.pid}: it has attached")

        return EngineWatch(self._plan.admin_socket, child.pid, self._policy.watch_period_s, tell)

    async def _stopped_or_hung(self, watch: EngineWatch, child: Child) -> Hang | None:
        """Returns when the engine is to be ended: with the hang it is ended for, or None for a stop from outside."""
        stopped: asyncio.Task[Any] = asyncio.create_task(self._stop.wait())
        tasks = {stopped, asyncio.create_task(watch.until_hung(), name="engine-watch")}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if stopped in done:
            return None
        hang: Hang = done.pop().result()
        self._say(f"engine, pid {child.pid}: {hang.text}; ending it")
        return hang

    async def _first_sidecar(self) -> Child | None:
        """A sidecar that serves: ours, or None where one was there already."""
        if _listens(self._plan.admin_socket):
            await asyncio.to_thread(_ask, self._plan.admin_socket)
            self._say(f"sidecar is running already: {self._plan.admin_socket}, its own settings hold")
            return None
        child = self._start_sidecar()
        while not _listens(self._plan.admin_socket):
            if child.has_ended:
                raise SidecarFailedError(await child.wait())
            if self._stop.is_set() or child.age_s > self._policy.sidecar_start_s:
                child.signal_group(signal.SIGKILL)
                await child.wait()
                late = f"it did not serve within {self._policy.sidecar_start_s:g} s"
                raise UnavailableError("start", "sidecar", "stopped meanwhile" if self._stop.is_set() else late)
            await asyncio.sleep(_POLL_S)
        return child

    async def _keep_sidecar(self, child: Child | None) -> None:
        """Restart the sidecar until the engine is over, then stop ours. The engine is never touched."""
        pauses = Pauses(self._policy)
        while True:
            if child is None:
                while _listens(self._plan.admin_socket):
                    if await _set_within(self._engine_over, _ADOPTED_POLL_S):
                        return
                self._say("sidecar that was running already is gone, starting one")
            else:
                code, _ = await self._until_ended_or(self._engine_over.wait(), child)
                if self._engine_over.is_set():
                    self._say(f"sidecar {outcome(code)}")
                    return
                pause_s = pauses.after(child.age_s)
                self._say(f"sidecar {outcome(code)} after {child.age_s:.1f} s, restart in {pause_s:g} s")
                if await _set_within(self._engine_over, pause_s):
                    return
            child = self._start_sidecar()

    def _start_sidecar(self) -> Child:
        child = Child.start(self._plan.sidecar, self._plan.sidecar_environment)
        self._say(f"sidecar started: pid {child.pid}")
        return child

    async def _until_ended_or(self, reason: Coroutine[Any, Any, Reason], child: Child) -> tuple[int, Reason | None]:
        """The child's code, and why it was ended: what ``reason`` returned, or None where it ended by itself."""
        ended = asyncio.create_task(child.wait())
        given = asyncio.create_task(reason)
        await asyncio.wait((ended, given), return_when=asyncio.FIRST_COMPLETED)
        if not given.done():
            given.cancel()
            return await ended, None
        why = await given
        if not ended.done():
            await self._end(child, ended, self._policy.hung_grace_s if isinstance(why, Hang) else math.inf)
        return await ended, why

    async def _end(self, child: Child, ended: asyncio.Task[int], most_s: float) -> None:
        """SIGTERM, the grace time (but no more than ``most_s``), SIGKILL."""
        grace_s = min(self._policy.grace_s, most_s)
        child.signal_group(signal.SIGTERM)
        await asyncio.wait((ended,), timeout=grace_s)
        if not ended.done():
            self._say(f"pid {child.pid} did not end within {grace_s:g} s, killing its group")
            child.signal_group(signal.SIGKILL)


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for ``event``; whether it came in time."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except asyncio.TimeoutError:
        return False
    return True


def _listens(path: Path) -> bool:
    """Whether somebody listens at a Unix socket: a connect, which costs no import of gRPC."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
        except OSError:
            return False
        return True


def _ask(path: Path) -> None:
    """Whether it is a sidecar that answers. Raises UnavailableError."""
    from rekindle.admin.client import AdminClient

    with AdminClient(path, deadline_s=5.0) as client:
        client.status()
