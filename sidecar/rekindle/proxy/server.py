"""The proxy's listener: every request comes in here, and is protected or passes through.

aiohttp's low-level server, because an application would put paths in order and read bodies: here they are the engine's
business. A client that leaves cancels its handler, which closes the engine's connection; so the engine aborts, too.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp import web
from rekindle_plugins.contract.adapter import Adapter
from rekindle_plugins.contract.dialect import Conversation
from rekindle_plugins.contract.errors import UnavailableError

from rekindle.config import HttpAddress
from rekindle.proxy.client import Client, ClientGoneError, read_body
from rekindle.proxy.counts import Counts
from rekindle.proxy.engine_link import Engine, EngineLink
from rekindle.proxy.exchange import NO_ENGINE, Exchange, Shared
from rekindle.proxy.kept import KeptConnector
from rekindle.proxy.limits import Limits
from rekindle.proxy.passage import EngineGoneError, has_body, pass_through, rest_of
from rekindle.proxy.room import FullError, Room

LOG = logging.getLogger("rekindle.proxy")

ENGINE_DIED = "rekindle_engine_died"
_PASSAGES = 3
"""Engines that a request without side effects is sent to, when they die one after the other."""


class ProxyServer:
    """One listener and one engine. Not restartable: make another."""

    def __init__(self, address: HttpAddress, engine_url: str, adapters: Sequence[Adapter], limits: Limits) -> None:
        self._address = address
        self._engine_url = engine_url
        self._adapters = adapters
        self._limits = limits
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._shared: Shared | None = None

    async def start(self) -> HttpAddress:
        """Bind and serve, whether the engine is there or not. Where it listens.

        Raises:
            UnavailableError: the address is taken or not ours. Nothing runs then.
        """
        session = _session(self._limits, aiohttp.TCPConnector(limit=0, force_close=True))
        kept = _session(self._limits, KeptConnector(self._limits.kept_open_s))
        link = EngineLink(self._engine_url, self._adapters, session, self._limits)
        self._shared = Shared(link, session, kept, self._limits, Room(self._limits))
        server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=self._limits.head_bytes,
            max_field_size=self._limits.head_bytes,
        )
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        # asyncio's socket at :: takes IPv6 only, where engines take both: without a host there is one for each.
        host = None if self._address.host == "::" else self._address.host
        self._site = web.TCPSite(self._runner, host, self._address.port, backlog=1024)
        try:
            await self._site.start()
        except OSError as error:
            await self.stop()
            subject = f"proxy {self._address.host}:{self._address.port}"
            raise UnavailableError(
                "listen", subject, error.strerror or str(error), "choose another in --proxy"
            ) from None
        link.start()
        host, port = self._runner.addresses[0][:2]
        return HttpAddress(str(host), int(port))

    def told(self, serving: Sequence[tuple[str, Mapping[str, Any] | None]]) -> None:
        """What the attached engines tell of their servers; see `EngineLink.told`."""
        if self._shared is not None:
            self._shared.link.told(serving)

    async def stop_listening(self) -> None:
        """Streams go on; nobody new comes in."""
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()

    async def stop(self) -> None:
        """Hang up on everybody. Safe to call twice."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
        if self._shared is not None:
            shared, self._shared = self._shared, None
            await shared.link.stop()
            await shared.session.close()
            await shared.kept.close()

    @property
    def counts(self) -> Counts:
        assert self._shared is not None
        counts = self._shared.counts
        counts.waiting = self._shared.room.waiting
        counts.engine_deaths = self._shared.link.deaths
        counts.suspects = self._shared.suspects.count
        counts.silent = self._shared.link.is_silent
        return counts

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._shared is not None
        client = Client(request)
        counts = self._shared.counts
        counts.requests += 1
        counts.in_flight += 1
        try:
            await self._serve(self._shared, request, client)
        except ClientGoneError:
            client.cut()
        except UnavailableError as error:
            counts.failed[ENGINE_DIED] += 1
            LOG.warning("answer broken off", extra={"problem": str(error)})
        finally:
            counts.in_flight -= 1
        return client.response if client.has_begun else web.Response(status=499)

    async def _serve(self, shared: Shared, request: web.BaseRequest, client: Client) -> None:
        engine = await self._engine_for_new(shared, client)
        if engine is None:
            return
        if request.headers.get("expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body: Any = None
        if has_body(request.headers):
            body = request.content
            if request.method == "POST" and engine.dialect is not None and engine.dialect.understands(request.path):
                start, is_all = await read_body(request, self._limits.body_bytes)
                conversation = self._protectable(shared, engine, request, start, is_all)
                if conversation is not None:
                    shared.counts.protected += 1
                    with shared.room.journal() as share:
                        await Exchange(shared, request, client, conversation, share).run(engine)
                    return
                body = start if is_all else rest_of(request, start)
        await self._pass(shared, request, client, engine, body)

    def _protectable(
        self, shared: Shared, engine: Engine, request: web.BaseRequest, body: bytes, is_all: bool
    ) -> Conversation | None:
        reason = ""
        if not is_all:
            reason = "body"
        elif not shared.room.can_protect:
            reason = "room"
        elif "content-encoding" in request.headers:
            reason = "encoding"
        else:
            assert engine.dialect is not None
            try:
                conversation = engine.dialect.open(request.path, body, secrets.randbelow(1 << 63))
            except Exception:
                LOG.exception("dialect failed", extra={"dialect": type(engine.dialect).__name__})
                conversation = None
            if conversation is not None:
                return conversation
            reason = "request"
        shared.counts.unprotected[reason] += 1
        return None

    async def _engine_for_new(self, shared: Shared, client: Client, broken: Engine | None = None) -> Engine | None:
        """The engine, after a wait where it is away; None when the client has been sent away."""
        if shared.link.engine is not None and shared.link.engine is not broken:
            return shared.link.engine
        try:
            with shared.room.wait():
                return await shared.link.wait(self._limits.wait_s, broken)
        except FullError:
            problem = f"the engine is restarting, and {self._limits.waiting} requests wait for it already"
        except UnavailableError:
            problem = f"the engine is restarting, and did not come back within {self._limits.wait_s:g} s"
        shared.counts.failed[NO_ENGINE] += 1
        await client.fail(NO_ENGINE, problem, 503, self._limits.retry_after_s)
        return None

    async def _pass(
        self, shared: Shared, request: web.BaseRequest, client: Client, engine: Engine | None, body: Any
    ) -> None:
        sent = 0
        while engine is not None:
            try:
                return await pass_through(shared.link, shared.session, request, client, engine, body)
            except EngineGoneError as gone:
                shared.lost(engine, str(gone))
                sent += 1
                if gone.sent or sent >= _PASSAGES:
                    shared.counts.failed[ENGINE_DIED] += 1
                    message = "the engine died under this request, which is not sent again: it may have had an effect"
                    return await client.fail(ENGINE_DIED, message, 502)
            engine = await self._engine_for_new(shared, client, engine)
        return None


def _session(limits: Limits, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        max_line_size=limits.head_bytes,
        max_field_size=limits.head_bytes,
    )
