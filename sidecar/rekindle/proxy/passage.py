"""A request that passes through: nothing of it is read, kept or changed but the headers of one hop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
from aiohttp import web
from rekindle_plugins.contract.errors import UnavailableError

from rekindle.proxy.client import BadBodyError, Client, ClientGoneError, parts_of
from rekindle.proxy.engine_link import EngineLink
from rekindle.proxy.headers import end_to_end

_SAFE = ("GET", "HEAD", "OPTIONS")
ENGINE_ERRORS = (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError)
"""What the session raises when the engine goes. A client's own leaving is a ClientGoneError by then."""
NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""What it raises when there was no connection, so that the engine has not seen the request."""
_NAMES_PAGES = re.compile(rb"do_remote_prefill|\\u00(?:4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a])", re.IGNORECASE)
"""The field that names another engine's pages (`openai.transfers`), or one that is written so that nobody can see."""
_LONGEST_NAME = 32


class EngineGoneError(Exception):
    """The engine's connection broke. ``sent``: it may have seen the request."""

    def __init__(self, problem: str, sent: bool) -> None:
        super().__init__(problem)
        self.sent = sent


class OutdatedError(Exception):
    """A request that was held back may name what another engine had ready for it, and cannot be sent without."""


async def pass_through(
    link: EngineLink,
    session: aiohttp.ClientSession,
    request: web.BaseRequest,
    client: Client,
    target: str,
    body: bytes | Upload | None,
) -> None:
    """``target``: path and query. ``body``: all of it that is to be sent, or what brings it.

    Raises EngineGoneError when nothing has reached the client; UnavailableError when the answer has broken off, after
    the client's connection was cut; what became of an upload.
    """
    headers = end_to_end(request.headers)
    if isinstance(body, bytes):
        headers.popall("content-length", None)
    connected = False
    try:
        with link.awaiting():
            async with session.request(
                request.method, link.url(target), data=body, headers=headers, allow_redirects=False
            ) as answer:
                connected = True
                await relay(answer, client, heard=link.heard)
    except NOT_SENT as error:
        raise EngineGoneError(str(error), sent=False) from None
    except ENGINE_ERRORS as error:
        is_used_up = isinstance(body, Upload) and body.was_used
        if isinstance(body, Upload) and body.problem is not None:
            raise body.problem from None
        if not client.has_begun:
            sent = request.method not in _SAFE or is_used_up
            raise EngineGoneError(str(error) or repr(error), sent=sent) from None
        client.cut()
        problem = "its connection broke" if connected else "it went away"
        raise UnavailableError("pass through", request.path, problem) from None


async def relay(
    answer: aiohttp.ClientResponse, client: Client, before: bytes = b"", *, heard: Callable[[], None]
) -> None:
    """An answer as it is, and to its end. ``before``: what was read of it already. ``heard``: see `EngineLink`."""
    await client.begin(answer.status, answer.reason, end_to_end(answer.headers))
    await client.write(before)
    async for part in answer.content.iter_any():
        heard()
        await client.write(part)
    await client.end()


class Upload:
    """A body on its way to the engine. What goes wrong with it is its client's doing."""

    def __init__(self, request: web.BaseRequest, start: bytes = b"") -> None:
        """`start`: what was read of it already."""
        self._request = request
        self.start = start
        self.was_used = False
        self.is_watched = False
        """It was held back, and must not name what another engine had ready for it."""
        self.problem: Exception | None = None
        """A ClientGoneError, BadBodyError or OutdatedError that ended it."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.was_used = True
        tail = b""
        try:
            if self.start:
                tail = self._watch(self.start)
                yield self.start
            async for part in parts_of(self._request):
                tail = self._watch(tail + part)
                yield part
        except (ClientGoneError, BadBodyError, OutdatedError) as error:
            self.problem = error
            raise

    def _watch(self, seen: bytes) -> bytes:
        if not self.is_watched:
            return b""
        if _NAMES_PAGES.search(seen):
            raise OutdatedError("it is too long to be read")
        return seen[-_LONGEST_NAME:]


def has_body(headers: Mapping[str, str]) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def target_of(raw_path: str) -> str | None:
    """What a request is for, as an engine is asked for it: path and query. None where no engine can be asked for it."""
    if raw_path.startswith("/"):
        return raw_path
    scheme, mark, rest = raw_path.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        return None
    _, slash, path = rest.partition("/")
    return slash + path if slash else "/"
