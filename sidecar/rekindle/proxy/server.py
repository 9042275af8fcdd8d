"""The proxy's listener: every request comes in here, and is protected or passes through.

aiohttp's low-level server, because an application would put paths in order and read bodies: here they are the engine's
business. A client that leaves cancels its handler, which closes the engine's connection; so the engine aborts, too.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp import web
from rekindle_plugins.contract.adapter import Adapter
from rekindle_plugins.contract.dialect import Conversation
from rekindle_plugins.contract.errors import UnavailableError
from rekindle_plugins.openai.transfers import body_without_outdated

from rekindle.config import HttpAddress
from rekindle.proxy.client import BadBodyError, Client, ClientGoneError, read_body
from rekindle.proxy.counts import Counts
from rekindle.proxy.engine_link import Engine, EngineLink
from rekindle.proxy.exchange import NO_ENGINE, Exchange, Shared
from rekindle.proxy.kept import KeptConnector
from rekindle.proxy.limits import Limits
from rekindle.proxy.passage import EngineGoneError, OutdatedError, Upload, has_body, pass_through, target_of
from rekindle.proxy.room import FullError, Room, Share

LOG = logging.getLogger("rekindle.proxy")

ENGINE_DIED = "rekindle_engine_died"
OUTDATED = "rekindle_outdated_request"
BAD_REQUEST = "invalid_request_error"
_NO_JSON = ("multipart/", "audio/", "image/", "video/", "application/octet-stream")
"""Bodies that name no pages of another engine."""
_PASSAGES = 3
"""Engines that a request without side effects is sent to, when they die one after the other."""


class ProxyServer:
    """One listener and one engine. Not restartable: make another."""

    def __init__(
        self,
        address: HttpAddress,
        engine_url: str,
        adapters: Sequence[Adapter],
        limits: Limits,
        key: Callable[[], str] = str,
        gives_seeds: bool = True,
    ) -> None:
        """`key`: see `EngineLink`. `gives_seeds`: sampled requests get a seed, so that they can be repeated."""
        self._key = key
        self._gives_seeds = gives_seeds
        self._address = address
        self._engine_url = engine_url
        self._adapters = adapters
        self._limits = limits
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._shared: Shared | None = None

    async def start(self) -> HttpAddress:
        """Bind and serve, whether the engine is there or not. Where it listens.

        Raises:
            UnavailableError: the address is taken or not ours. Nothing runs then.
        """
        session = _session(self._limits, aiohttp.TCPConnector(limit=0, force_close=True))
        connector = KeptConnector(self._limits.kept_open_s)
        kept = _session(self._limits, connector)
        link = EngineLink(self._engine_url, self._adapters, session, self._limits, self._key, connector.hang_up)
        self._shared = Shared(link, session, kept, self._limits, Room(self._limits))
        self._server = server = web.Server(
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
        """Streams go on; nobody new comes in, also not on a connection that is there."""
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()
        if self._server is not None:
            self._server.pre_shutdown()

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
    def has_engine(self) -> bool:
        return self._shared is not None and self._shared.link.engine is not None

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
        except (BadBodyError, OutdatedError) as error:
            await self._refuse(counts, client, error)
        except UnavailableError as error:
            counts.failed[ENGINE_DIED] += 1
            LOG.warning("answer broken off", extra={"problem": str(error)})
        finally:
            counts.in_flight -= 1
        return client.response if client.has_begun else web.Response(status=499)

    async def _refuse(self, counts: Counts, client: Client, error: BadBodyError | OutdatedError) -> None:
        try:
            if client.has_begun:
                client.cut()
            elif isinstance(error, BadBodyError):
                await client.fail(BAD_REQUEST, str(error), 400)
            else:
                counts.failed[OUTDATED] += 1
                problem = f"it has waited for {client.age_s:.0f} s, and may name another engine's pages that are gone"
                await client.fail(OUTDATED, f"{problem}: {error}", 503, self._limits.retry_after_s)
        except ClientGoneError:
            client.cut()

    async def _serve(self, shared: Shared, request: web.BaseRequest, client: Client) -> None:
        target = target_of(request.raw_path)
        if target is None:
            return await client.fail(BAD_REQUEST, "the request's target is neither a path nor an http URL", 400)
        engine = await self._engine_for_new(shared, client)
        if engine is None:
            return None
        if request.headers.get("expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # nothing of an answer
        if not has_body(request.headers):
            return await self._pass(shared, request, client, engine, target, None)
        with shared.room.keeping() as share:
            body: bytes | Upload = Upload(request)
            if request.method == "POST":
                opened = await self._open(shared, engine, request, share)
                if isinstance(opened, Conversation):
                    shared.counts.protected += 1
                    with shared.room.protecting():
                        return await Exchange(shared, request, client, opened, share).run(engine)
                body = opened or body
            return await self._pass(shared, request, client, engine, target, body, share)

    async def _open(
        self, shared: Shared, engine: Engine, request: web.BaseRequest, share: Share
    ) -> Conversation | bytes | Upload | None:
        """The conversation, where it can be protected; else what was read of its body."""
        if engine.dialect is None:
            if shared.link.would_protect(request.path):
                shared.counts.unprotected[engine.unknown] += 1
            return None
        if not engine.dialect.understands(request.path):
            return None
        if not shared.room.can_protect:
            shared.counts.unprotected["room"] += 1
            return None
        if "content-encoding" in request.headers:
            shared.counts.unprotected["encoding"] += 1
            return None
        body, is_all = await read_body(request, self._limits.body_bytes, share.fits)
        if not is_all:
            shared.counts.unprotected["room" if shared.room.is_overfull else "body"] += 1
            return Upload(request, body)
        seed = secrets.randbelow(1 << 63) if self._gives_seeds else None
        try:
            conversation = engine.dialect.open(request.path, body, seed)
        except Exception:
            LOG.exception("dialect failed", extra={"dialect": type(engine.dialect).__name__})
            conversation = None
        if conversation is None:
            shared.counts.unprotected["request"] += 1
        return conversation or body

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
        self,
        shared: Shared,
        request: web.BaseRequest,
        client: Client,
        engine: Engine | None,
        target: str,
        body: bytes | Upload | None,
        share: Share | None = None,
    ) -> None:
        """Raises BadBodyError, OutdatedError, and what `pass_through` raises but for EngineGoneError."""
        sent = 0
        while engine is not None:
            if body and share and request.method == "POST" and client.age_s > self._limits.hand_over_s:
                body = await self._timely(shared, request, body, share)
            try:
                return await pass_through(shared.link, shared.session, request, client, target, body)
            except EngineGoneError as gone:
                shared.lost(engine, str(gone))
                sent += 1
                if gone.sent or sent >= _PASSAGES:
                    shared.counts.failed[ENGINE_DIED] += 1
                    message = "the engine died under this request, which is not sent again: it may have had an effect"
                    return await client.fail(ENGINE_DIED, message, 502)
            engine = await self._engine_for_new(shared, client, engine)
        return None

    async def _timely(
        self, shared: Shared, request: web.BaseRequest, body: bytes | Upload, share: Share
    ) -> bytes | Upload:
        """A body that was held back, without what it may name of another engine's. Raises OutdatedError."""
        if request.headers.get("content-type", "").lower().startswith(_NO_JSON):
            return body
        if "content-encoding" in request.headers:
            raise OutdatedError("its Content-Encoding is not read")
        if isinstance(body, Upload) and not body.start and shared.room.can_protect:
            start, is_all = await read_body(request, self._limits.body_bytes, share.fits)
            body = start if is_all else Upload(request, start)
        if isinstance(body, Upload):
            body.is_watched = True
            return body
        try:
            return body_without_outdated(body)
        except RecursionError:
            raise OutdatedError("it is nested too deeply") from None


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
