"""The engine behind the proxy: whether it serves, how often it has come anew, and which dialect it speaks.

    away ──▶ health answers, dialect is asked ──▶ there ──▶ somebody's connection broke ──▶ in doubt ──▶ away
                                                    ▲                                          │
                                                    └─────────── well for a while ─────────────┘

Whoever had a broken connection reports it, and waits for another life of the engine. Only the engine's health decides
that it is away for everybody: one request that makes a living engine hang up must not stop the others. It has to be
well for a while, because a server may outlive its engine by moments, and say so.

A server that takes requests and says nothing, not even whether it is well, breaks no connection: ``is_silent`` tells.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
from rekindle_plugins.contract.adapter import Adapter, Health
from rekindle_plugins.contract.dialect import Dialect, EngineAnswer, EngineRequest
from rekindle_plugins.contract.errors import UnavailableError
from yarl import URL

from rekindle.proxy.limits import Limits

LOG = logging.getLogger("rekindle.proxy")

_ANSWER_BYTES = 1 << 20

NO_DIALECT, NO_KEY = "dialect", "key"
_UNKNOWN = {
    NO_DIALECT: ("no plugin's dialect recognises it by its models", "see the table of engines that have one"),
    NO_KEY: ("it does not answer without a key", "give the proxy one in --proxy-api-key-file, see docs/streams.md"),
}
"""Why nobody knows an engine's dialect: problem and hint."""


class _Found(NamedTuple):
    """What an engine is. ``unknown``: why it has no dialect."""

    dialect: Dialect | None
    backend: str = ""
    unknown: str = ""


@dataclass(frozen=True)
class Engine:
    """One life of the engine, or a part of one: it is a new part when it was in doubt and turned out to be well.

    ``dialect`` is None where nobody knows it: everything passes through.
    """

    generation: int
    dialect: Dialect | None
    backend: str = ""
    """Whose dialect it is, by the plugin's name."""
    unknown: str = ""
    """Why it has no dialect, as it is counted."""
    life: int = 0
    came_s: float = 0.0
    """When it was found, on the monotonic clock."""


class EngineLink:
    """Runs on the proxy's event loop; one task looks for an engine while there is none."""

    def __init__(
        self,
        base: str,
        adapters: Sequence[Adapter],
        session: aiohttp.ClientSession,
        limits: Limits,
        key: Callable[[], str] = str,
        hang_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`key`: reads the engine's API key, for our own questions; empty where it has none. `hang_up`: on the requests
        that can be sent again."""
        self._hang_up = hang_up
        self._read_key = key
        self._key = ""
        self._base = base.rstrip("/")
        self._speakers = [(adapter, dialect) for adapter in adapters if (dialect := _dialect_of(adapter)) is not None]
        self._session = session
        self._limits = limits
        self._engine: Engine | None = None
        self._told: Sequence[tuple[str, Mapping[str, Any] | None]] = ()
        self._generation = self._life = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._outstanding = 0
        self._heard_s = self._believed_s = 0.0
        self.deaths = 0
        self.is_silent = False
        """Requests wait for the engine, and its server leaves them, and questions for its health, without an answer."""

    def start(self) -> None:
        self._key = self._read_key()
        self._task = asyncio.create_task(self._search(), name="engine-search")
        self._listening = asyncio.create_task(self._listen(), name="engine-listen")

    async def stop(self) -> None:
        tasks = [task for task in (self._task, self._listening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def told(self, serving: Sequence[tuple[str, Mapping[str, Any] | None]]) -> None:
        """What the engines that are attached to the sidecar tell of their servers, each with its plugin's name.

        A shim attaches before its engine serves, and an engine's death is told before the next one attaches.
        """
        self._told = serving
        if self._engine is not None and self._engine.dialect is not None:
            self._tell(self._engine.backend, self._engine.dialect)

    def _tell(self, backend: str, dialect: Dialect) -> None:
        """Which of several engines of one kind is ours is not known: then it counts what all of them say."""
        ours = [serving for plugin, serving in self._told if plugin == backend]
        dialect.told(ours[0] if ours and all(serving == ours[0] for serving in ours) else None)

    @property
    def engine(self) -> Engine | None:
        """The engine that is there, in doubt or not; None while it is away."""
        return self._engine

    def would_protect(self, path: str) -> bool:
        """Whether a POST to this path could be protected, if only the engine had a dialect."""
        return any(_understands(dialect, path) for _, dialect in self._speakers)

    def is_sound(self, engine: Engine) -> bool:
        """Whether that life of it is there, and nobody's connection to it has broken."""
        return self._engine is engine and (self._task is None or self._task.done())

    def age_s(self, engine: Engine) -> float:
        """For how long that life of it has been there."""
        return time.monotonic() - engine.came_s

    def url(self, raw_path: str) -> URL:
        """``raw_path`` as the client wrote it: nothing in it is decoded or put in order."""
        return URL(self._base + raw_path, encoded=True)

    async def wait(self, timeout_s: float, other_than: Engine | None = None) -> Engine:
        """An engine, another life than the one whose connection broke. Raises UnavailableError when none is in time."""
        deadline_s = time.monotonic() + timeout_s
        while self._engine is None or self._engine is other_than:
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, deadline_s - time.monotonic()))
            except asyncio.TimeoutError:
                raise UnavailableError("wait for", "the engine", f"none within {timeout_s:g} s") from None
        return self._engine

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """While a request is the engine's to answer."""
        self._outstanding += 1
        try:
            yield
        finally:
            self._outstanding -= 1

    def heard(self) -> None:
        """It has said something. Not everything has to be told: where in doubt, it is asked."""
        self._heard_s = time.monotonic()

    async def _listen(self) -> None:
        closed = 0
        while True:
            await asyncio.sleep(self._limits.quiet_s)
            engine, began_s = self._engine, time.monotonic()
            is_quiet = began_s - self._heard_s >= self._limits.quiet_s
            if not self._outstanding or not is_quiet:
                self.is_silent, closed = False, 0
                continue
            path = next(iter(self._by_health_path()))
            answer = await self._ask(EngineRequest(path, method="GET"))
            # A refused connection is no silence: that engine is gone, and comes back.
            is_mute = answer.status == 0 and time.monotonic() - began_s >= self._limits.health_s
            has_heard = self._heard_s >= began_s
            self.is_silent = is_mute and engine is not None and self.is_sound(engine) and not has_heard
            closed = closed + 1 if answer.status == 0 and not is_mute and not has_heard else 0
            if closed >= self._limits.closed_looks:
                # A server that was stopped may wait for its clients to leave, who wait for an engine that is gone.
                LOG.warning("engine lets nobody in and says nothing: hanging up on it")
                self._hang_up()
                closed = 0

    def lost(self, engine: Engine, problem: str, settle_s: float = 0.0) -> bool:
        """A connection to that life of it broke. Told by everybody who had one; whether this is the first one.

        It has to be well for ``settle_s``, or as long as is usual."""
        is_first = self.is_sound(engine)
        if self._engine is engine:
            self._believed_s = max(self._believed_s, time.monotonic() + max(settle_s, self._limits.settle_s))
        if is_first:
            LOG.warning("connection to the engine lost", extra={"generation": engine.generation, "problem": problem})
            self._task = asyncio.create_task(self._doubt(engine), name="engine-doubt")
        return is_first

    async def _doubt(self, engine: Engine) -> None:
        while await self._healthy():
            if time.monotonic() >= self._believed_s:
                self._set(_Found(engine.dialect, engine.backend, engine.unknown))
                return
            await asyncio.sleep(self._limits.poll_s)
        self._engine = None
        self.deaths += 1
        LOG.warning("engine away", extra={"generation": engine.generation})
        await self._search()

    async def _search(self) -> None:
        began_s = time.monotonic()
        found = await self._find()
        self._life += 1
        self._set(found)
        name = type(found.dialect).__name__ if found.dialect else "none"
        away_s = round(time.monotonic() - began_s, 3)
        LOG.info("engine there", extra={"generation": self._generation, "dialect": name, "away_s": away_s})
        if found.unknown and self._speakers:
            problem, hint = _UNKNOWN[found.unknown]
            LOG.warning("engine not known: its streams are not protected", extra={"problem": problem, "hint": hint})

    async def _find(self) -> _Found:
        """An engine that is well, and what it is: nobody is taken for unknown because it died while it was asked."""
        asked_s: float | None = None
        while True:
            if not await self._healthy():
                asked_s = None
            else:
                asked_s = asked_s or time.monotonic()
                found = await self._dialect(is_last=time.monotonic() - asked_s >= self._limits.dialect_s)
                if found is not None:
                    return found
            await asyncio.sleep(self._limits.poll_s)

    def _set(self, found: _Found) -> None:
        self._generation += 1
        self._engine = Engine(
            self._generation, found.dialect, found.backend, found.unknown, self._life, time.monotonic()
        )
        self._changed.set()
        self._changed = asyncio.Event()

    async def _healthy(self) -> bool:
        """Whether the engine says that it serves, by any adapter's reading; for one without an adapter, a 200."""
        for path, adapters in self._by_health_path().items():
            answer = await self._ask(EngineRequest(path, method="GET"))
            if answer.status == 0:
                return False
            if any(_reads_well(adapter, answer) for adapter in adapters) or (not adapters and answer.status == 200):
                return True
        return False

    def _by_health_path(self) -> dict[str, list[Adapter]]:
        paths: dict[str, list[Adapter]] = {}
        for adapter, _ in self._speakers:
            paths.setdefault(adapter.health_path, []).append(adapter)
        return paths or {Adapter.health_path: []}

    async def _dialect(self, is_last: bool) -> _Found | None:
        """What the engine is; None where it has not said. `is_last`: then that is an answer too."""
        self._key = self._read_key()
        unknown = NO_DIALECT
        said: dict[str, EngineAnswer] = {}
        for adapter, dialect in self._speakers:
            try:
                path = dialect.model_list_path
                models = said[path] = said.get(path) or await self._ask(EngineRequest(path, method="GET"))
                if not is_last and (models.status in (0, 429) or models.status >= 500):
                    return None
                if models.status in (401, 403):
                    unknown = NO_KEY
                if models.status == 200 and dialect.recognises(models.body):
                    questions = dialect.questions(models.body)
                    answers = [await self._ask(question, self._limits.question_s) for question in questions]
                    learnt = dialect.learn(answers)
                    self._tell(adapter.info.name, learnt)
                    return _Found(learnt, adapter.info.name)
            except Exception:
                # A plugin's code: what it does wrong costs its engine the protection, and nothing else.
                LOG.exception("dialect failed", extra={"dialect": type(dialect).__name__})
        return _Found(None, "", unknown)

    async def _ask(self, request: EngineRequest, timeout_s: float | None = None) -> EngineAnswer:
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._limits.health_s)
        headers = {"content-type": "application/json"} if request.body else {}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        try:
            async with self._session.request(
                request.method, self.url(request.path), data=request.body or None, headers=headers, timeout=timeout
            ) as answer:
                body = b""
                async for part in answer.content.iter_chunked(1 << 16):
                    body += part
                    if len(body) > _ANSWER_BYTES:
                        break
                return EngineAnswer(answer.status, body)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
            return EngineAnswer(0, b"")


def _reads_well(adapter: Adapter, answer: EngineAnswer) -> bool:
    try:
        return adapter.read_health(answer.status, answer.body) is Health.SERVING
    except Exception:
        LOG.exception("adapter failed", extra={"backend": adapter.info.name, "question": "read_health"})
        return False


def _dialect_of(adapter: Adapter) -> Dialect | None:
    try:
        return adapter.dialect()
    except Exception:
        LOG.exception("adapter failed", extra={"backend": adapter.info.name, "question": "dialect"})
        return None


def _understands(dialect: Dialect, path: str) -> bool:
    try:
        return dialect.understands(path)
    except Exception:
        LOG.exception("dialect failed", extra={"dialect": type(dialect).__name__})
        return False
