"""One protected request: attempts on one engine after another, until the client has its answer.

    send ──▶ answer ──▶ complete
      ▲        │ the engine died: tell the link, ask ``suspects``, wait for a fresh engine, ask the conversation how
      └────────┘ the way led nowhere: ask the conversation for another

An engine that aborts an answer is dying, or was told to drop everything and lives on, maybe with other weights: what it
has begun then ends as it says, after it has been well for a while.

What is sent, what an event means and what the client gets of it is the conversation's; when, and whether at all, is
decided here. Ends in exactly one of: the whole answer, our error, the client's leaving.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from rekindle_plugins.contract.dialect import Conversation, EngineAnswer, EngineRequest, NotResumableError, Turn, Way
from rekindle_plugins.contract.errors import UnavailableError

from rekindle.proxy.client import Client
from rekindle.proxy.counts import Counts
from rekindle.proxy.engine_link import Engine, EngineLink
from rekindle.proxy.headers import end_to_end, for_rewritten
from rekindle.proxy.kept import not_connected, was_used_before
from rekindle.proxy.limits import Limits
from rekindle.proxy.passage import ENGINE_ERRORS, NOT_SENT, EngineGoneError, relay
from rekindle.proxy.room import Room, Share
from rekindle.proxy.sse import Event, EventReader, EventTooLongError
from rekindle.proxy.suspects import Suspects, Verdict

LOG = logging.getLogger("rekindle.proxy")

POISON = "rekindle_poison_request"
NOT_RESUMABLE = "rekindle_not_resumable"
NO_ENGINE = "rekindle_engine_unavailable"
TOO_LONG = "rekindle_answer_too_long"
_ids = itertools.count()


@dataclass
class Shared:
    """What all requests have in common. One event loop; no locks."""

    link: EngineLink
    session: aiohttp.ClientSession
    """A connection for every request: one that was kept open may be a dead engine's."""
    kept: aiohttp.ClientSession
    """Connections that are used again, for requests that can be sent again."""
    limits: Limits
    room: Room
    suspects: Suspects = field(default_factory=Suspects)
    counts: Counts = field(default_factory=Counts)
    suspects_moved: asyncio.Event = field(default_factory=asyncio.Event)

    def lost(self, engine: Engine, problem: str, settle_s: float = 0.0) -> None:
        """A connection to that life of the engine broke; see `EngineLink.lost`."""
        if self.link.lost(engine, problem, settle_s):
            self.suspects.life_over()
            self.wake_suspects()

    def wake_suspects(self) -> None:
        self.suspects_moved.set()
        self.suspects_moved = asyncio.Event()


class LedNowhereError(Exception):
    """The fresh engine lives, and does not go the way it was asked to."""


class _StaleError(Exception):
    """A connection that had been used before broke, and nothing had come: the engine died, or had hung up on it."""


class FailedError(Exception):
    """It ends with our error."""

    def __init__(self, kind: str, message: str, status: int) -> None:
        super().__init__(message)
        self.kind, self.message, self.status = kind, message, status


class _Read(NamedTuple):
    """``nowhere``: why the way led nowhere. ``too_long``: an event that cannot be read, and all behind it. ``aborts``:
    the data of an event that is held back until it is known whether the engine lives."""

    out: bytes
    turn: Turn
    nowhere: str
    too_long: bytes
    aborts: bytes


class Exchange:
    """One request. ``run`` once."""

    def __init__(
        self, shared: Shared, request: web.BaseRequest, client: Client, conversation: Conversation, share: Share
    ) -> None:
        self._shared = shared
        self._request = request
        self._client = client
        self._conversation = conversation
        self._share = share
        self._id = next(_ids)
        self._headers = for_rewritten(end_to_end(request.headers))
        self._first = conversation.request()
        self._way = Way.FRESH
        self._was_sent = False
        self._is_relayed = False
        """The client gets the engine's bytes as they are, and nothing of ours can be put among them."""
        self._is_shed = False
        """Its journal was too long."""

    async def run(self, engine: Engine) -> None:
        """Raises ClientGoneError; UnavailableError when the answer has broken off, after the client was cut off."""
        self._share.grow_to(self._conversation.journal_bytes)
        try:
            await self._run(engine)
        except FailedError as error:
            self._shared.counts.failed[error.kind] += 1
            LOG.warning("answer ended", extra={"kind": error.kind, "problem": error.message})
            retry_s = self._shared.limits.retry_after_s if error.status == 503 else None
            await self._client.fail(error.kind, error.message, error.status, retry_s)
        finally:
            self._shared.suspects.over(self._id)
            self._shared.wake_suspects()

    async def _run(self, engine: Engine) -> None:
        call = self._first
        deaths = 0
        while True:
            broken: Engine | None = None
            engine = await self._when_it_may_go(engine)
            # What happens to an engine whose death somebody else has told of is not this request's doing.
            was_sound = self._shared.link.is_sound(engine)
            try:
                await self._attempt(engine, call)
                return
            except EngineGoneError as gone:
                broken = engine
                if not gone.sent:
                    self._shared.suspects.stopped(self._id)
                self._shared.lost(engine, str(gone))
                if self._is_relayed:
                    self._client.cut()
                    raise UnavailableError("pass on", self._request.path, str(gone)) from None
                if gone.sent and was_sound:
                    deaths += 1
                    self._judge(deaths)
                if await self._was_all():
                    return
            except LedNowhereError as error:
                self._conversation.refuse(str(error))
            self._shared.suspects.stopped(self._id)
            self._shared.wake_suspects()
            engine = await self._next_engine(broken)
            call = self._resume(engine, deaths)

    def _resume(self, engine: Engine, deaths: int) -> EngineRequest:
        assert engine.dialect is not None
        resumption = self._conversation.resume(engine.dialect)
        self._way = resumption.way
        LOG.info(
            "answer resumed",
            extra={"way": self._way.value, "tokens": self._conversation.token_count, "why": resumption.reason},
        )
        if resumption.request is None:
            before = "the engine died, and this answer cannot be continued exactly: " if deaths else ""
            raise FailedError(NOT_RESUMABLE, before + resumption.reason, 502)
        self._shared.counts.resumed[self._way.value] += 1
        return resumption.request

    # -- when --------------------------------------------------------------------------------------------------

    async def _when_it_may_go(self, engine: Engine) -> Engine:
        """At once for most; for a suspect when its turn has come. Returns the engine that is there then."""
        shared = self._shared
        deadline_s = time.monotonic() + shared.limits.wait_s
        while not shared.suspects.may_go(
            self._id, engine.generation, shared.link.age_s(engine) > shared.limits.proof_s
        ):
            await self._breathe(shared.suspects_moved.wait, deadline_s)
            if not shared.link.is_sound(engine):
                # It went with the suspect that we waited for.
                engine = await self._next_engine(engine)
        shared.suspects.went(self._id, self._conversation.place, engine.generation)
        return engine

    async def _next_engine(self, broken: Engine | None) -> Engine:
        """An engine with a dialect, another life than the broken one. The client hears of us meanwhile."""
        shared = self._shared
        deadline_s = time.monotonic() + shared.limits.wait_s
        while (engine := shared.link.engine) is None or engine is broken:
            await self._breathe(lambda: shared.link.wait(shared.limits.keep_alive_s, broken), deadline_s)
        if engine.dialect is None:
            raise FailedError(NOT_RESUMABLE, "the engine died, and another kind of engine came", 502)
        return engine

    async def _breathe(self, what: Callable[[], Awaitable[object]], deadline_s: float) -> None:
        """Waits for something for one keep-alive interval at most."""
        limits = self._shared.limits
        if time.monotonic() > deadline_s:
            raise FailedError(NO_ENGINE, f"no engine within {limits.wait_s:g} s", 503)
        if self._was_sent and self._conversation.client_streams:
            await self._client.keep_alive()
        try:
            await asyncio.wait_for(what(), limits.keep_alive_s)
        except (asyncio.TimeoutError, UnavailableError):
            pass

    def _judge(self, deaths: int) -> None:
        verdict = self._shared.suspects.died(self._id, self._conversation.place)
        if verdict is Verdict.CONVICTED or deaths >= self._shared.limits.attempts:
            message = f"the engine died {deaths} times under this request, and it is not sent again"
            raise FailedError(POISON, message, 500)

    async def _has_lived_on(self, engine: Engine) -> bool:
        """Whether an engine that has aborted an answer is well all the same. It is in doubt meanwhile."""
        link, limits = self._shared.link, self._shared.limits
        now = link.engine
        if now is None or now.life != engine.life:
            return False
        self._shared.lost(now, "it aborted an answer", limits.abort_settle_s)
        deadline_s = time.monotonic() + limits.wait_s
        while link.engine is now:
            await self._breathe(lambda: link.wait(limits.keep_alive_s, now), deadline_s)
        return link.engine is not None and link.engine.life == engine.life

    def _outlive(self, engine: Engine) -> None:
        """An attempt whose tokens nobody hears of has lasted for a while."""
        now = self._shared.link.engine
        is_well = now is not None and now.life == engine.life and self._shared.link.is_sound(now)
        if is_well and self._shared.suspects.outlived(self._id):
            self._shared.wake_suspects()

    # -- what --------------------------------------------------------------------------------------------------

    async def _attempt(self, engine: Engine, call: EngineRequest) -> None:
        """Raises EngineGoneError, LedNowhereError."""
        timer: asyncio.TimerHandle | None = None
        if not self._conversation.engine_streams:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._shared.limits.outlived_s, self._outlive, engine)
        try:
            await self._send(self._shared.kept, engine, call)
        except NOT_SENT as error:
            raise EngineGoneError(str(error), sent=False) from None
        except _StaleError:
            # A new connection tells a living engine that had hung up on an idle one from a dead engine.
            try:
                await self._send(self._shared.session, engine, call)
            except NOT_SENT as error:
                raise EngineGoneError(f"it went before it answered: {error!r:.200}", sent=True) from None
        finally:
            if timer is not None:
                timer.cancel()

    async def _send(self, session: aiohttp.ClientSession, engine: Engine, call: EngineRequest) -> None:
        """Raises EngineGoneError, LedNowhereError, _StaleError, one of NOT_SENT."""
        call = self._timely(call)
        raw_path = call.path + self._query() if call.path == self._request.path else call.path
        connected = False
        link = self._shared.link
        not_connected()
        try:
            with link.awaiting():
                async with session.request(
                    "POST", link.url(raw_path), data=call.body, headers=self._headers, allow_redirects=False
                ) as answer:
                    connected = self._was_sent = True
                    link.heard()
                    await self._read(engine, answer)
        except NOT_SENT:
            raise
        except ENGINE_ERRORS as error:
            self._was_sent = True
            if not connected and session is self._shared.kept and was_used_before():
                raise _StaleError from None
            problem = "its connection broke" if connected else "it went before it answered"
            raise EngineGoneError(f"{problem}: {error!r:.200}", sent=True) from None

    def _timely(self, call: EngineRequest) -> EngineRequest:
        """The first request, as long as what it names can be relied on; without that when it may have been sent before,
        or was held back. All others name nothing."""
        if call is self._first and (self._was_sent or self._client.age_s > self._shared.limits.hand_over_s):
            self._conversation.outdate()
            return self._conversation.request()
        return call

    def _query(self) -> str:
        _, mark, query = self._request.raw_path.partition("?")
        return mark + query

    async def _read(self, engine: Engine, answer: aiohttp.ClientResponse) -> None:
        if answer.status != 200:
            await self._read_refusal(engine, answer)
        elif not self._conversation.engine_streams:
            await self._read_whole(engine, answer)
        elif not answer.headers.get("content-type", "").startswith("text/event-stream"):
            if self._client.has_begun:
                raise LedNowhereError("the fresh engine does not stream its answer")
            await self._relay(answer)
        else:
            await self._read_events(engine, answer)

    async def _read_refusal(self, engine: Engine, answer: aiohttp.ClientResponse) -> None:
        body, _ = await self._bounded(answer)
        assert engine.dialect is not None
        if engine.dialect.says_dying(EngineAnswer(answer.status, body)):
            raise EngineGoneError(f"it answered {answer.status}", sent=True)
        if self._client.has_begun or self._way is not Way.FRESH:
            raise LedNowhereError(f"the fresh engine answered {answer.status}: {body[:200].decode(errors='replace')}")
        await self._relay(answer, body)

    async def _relay(self, answer: aiohttp.ClientResponse, before: bytes = b"") -> None:
        self._is_relayed = True
        await relay(answer, self._client, before, heard=self._shared.link.heard)

    async def _read_whole(self, engine: Engine, answer: aiohttp.ClientResponse) -> None:
        """An answer that does not stream goes out when all of it is there, because half of one cannot be taken back."""
        body, is_all = await self._bounded(answer)
        turn = self._conversation.judge(body) if is_all else Turn.COMPLETE
        if turn is Turn.DIED or (turn is Turn.ABORTED and not await self._has_lived_on(engine)):
            raise EngineGoneError("it aborted the answer", sent=True)
        await self._relay(answer, body)

    async def _bounded(self, answer: aiohttp.ClientResponse) -> tuple[bytes, bool]:
        """The body, and whether that is all: what follows is relayed as it comes."""
        parts: list[bytes] = []
        size = 0
        async for part in answer.content.iter_any():
            parts.append(part)
            size += len(part)
            fits = self._share.fits(self._conversation.journal_bytes + size)
            if not fits or size > self._shared.limits.answer_bytes:
                return b"".join(parts), False
        return b"".join(parts), True

    async def _read_events(self, engine: Engine, answer: aiohttp.ClientResponse) -> None:
        if self._conversation.client_streams and not self._client.has_begun:
            headers = end_to_end(answer.headers)
            headers.popall("content-length", None)
            await self._client.begin(answer.status, answer.reason, headers)
        reader = EventReader(self._shared.limits.event_bytes)
        async for part in answer.content.iter_any():
            read = self._take(reader, part)
            if await self._pass_on(answer, read):
                return
            if read.turn is Turn.ABORTED:
                if not await self._has_lived_on(engine):
                    raise EngineGoneError("it aborted the answer", sent=True)
                self._conversation.believe()
                if await self._pass_on(answer, self._take(reader, b"", read.aborts)):
                    return
        raise EngineGoneError("its answer ended before its end", sent=True)

    async def _pass_on(self, answer: aiohttp.ClientResponse, read: _Read) -> bool:
        """What was read goes to the client. Whether that was the end."""
        if self._conversation.client_streams:
            await self._client.write(read.out)
        if read.too_long:
            await self._give_up(answer, read.too_long)
            return True
        if read.nowhere:
            raise LedNowhereError(read.nowhere)
        if read.turn is Turn.DIED:
            raise EngineGoneError("it says that it is dying", sent=True)
        if read.turn is Turn.COMPLETE:
            await self._finish(answer)
            await self._drain(answer)
            return True
        return False

    def _take(self, reader: EventReader, part: bytes, held: bytes = b"") -> _Read:
        """What newly arrived bytes mean, after the event that was held back. What the conversation gave out before a
        trouble is for the client all the same: it counts as delivered."""
        conversation = self._conversation
        out: list[bytes] = []
        turn, nowhere, too_long, aborts = Turn.GOING, "", b"", b""
        events = reader.feed(part)
        try:
            for event in itertools.chain((Event(b"", held),), events) if held else events:
                if event.data is None:
                    out.append(event.raw)
                    continue
                taken = conversation.take(event.data)
                out.append(taken.out)
                turn = taken.turn
                if turn is not Turn.GOING:
                    aborts = event.data if turn is Turn.ABORTED else b""
                    break
        except NotResumableError as error:
            nowhere = error.problem
        except EventTooLongError as error:
            too_long = error.rest
        self._account()
        return _Read(b"".join(out), turn, nowhere, too_long, aborts)

    def _account(self) -> None:
        shared, conversation = self._shared, self._conversation
        shared.link.heard()
        self._share.grow_to(conversation.journal_bytes)
        is_long = conversation.journal_bytes > shared.limits.journal_bytes
        if (is_long or shared.room.is_overfull) and not self._is_shed:
            self._shed(is_long)
        if shared.suspects.got_on(self._id, conversation.place):
            shared.wake_suspects()

    def _shed(self, is_long: bool) -> None:
        """There is too much to keep. Where the client has not got it yet, what is kept is the answer."""
        limit = self._shared.limits.journal_bytes
        if self._conversation.client_streams:
            self._is_shed = True
            self._shared.counts.unprotected["journal"] += 1
            self._conversation.forget()
        elif is_long:
            raise FailedError(TOO_LONG, f"the answer takes more than {limit >> 20} MiB: ask for it as a stream", 502)

    async def _give_up(self, answer: aiohttp.ClientResponse, rest: bytes) -> None:
        """An event too long to be read: the rest of the answer passes as it is."""
        if self._way is not Way.FRESH or not self._conversation.client_streams:
            raise LedNowhereError("an event of the fresh engine is too long")
        self._shared.counts.unprotected["event"] += 1
        self._conversation.forget()
        self._is_relayed = True
        await self._client.write(rest)
        async for part in answer.content.iter_any():
            self._shared.link.heard()
            await self._client.write(part)
        await self._client.end()

    async def _was_all(self) -> bool:
        """Whether the engine died after its last token, so that only the end is missing, which needs no engine."""
        missing = self._conversation.remainder()
        if missing is None:
            return False
        if self._conversation.client_streams:
            await self._client.write(missing)
        await self._finish(None)
        return True

    async def _drain(self, answer: aiohttp.ClientResponse) -> None:
        """Reads what is behind the last event, which is the end: then the connection can be used again."""
        if not answer.content.at_eof():
            with contextlib.suppress(asyncio.TimeoutError, *ENGINE_ERRORS):
                await asyncio.wait_for(_skip_rest(answer), self._shared.limits.drain_s)

    async def _finish(self, answer: aiohttp.ClientResponse | None) -> None:
        if self._conversation.client_streams:
            await self._client.end()
            return
        body = self._conversation.whole()
        headers = CIMultiDict[str]() if answer is None else end_to_end(answer.headers)
        headers.popall("cache-control", None)  # engines set it for events only
        headers["content-type"] = "application/json"
        headers["content-length"] = str(len(body))
        await self._client.begin(200, None, headers)
        await self._client.write(body)
        await self._client.end()


async def _skip_rest(answer: aiohttp.ClientResponse) -> None:
    async for _ in answer.content.iter_any():
        pass
