"""The client's side of a request: headers go out late, and its leaving is told from the engine's death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from rekindle_plugins.openai import chunks

KEEP_ALIVE = b": rekindle waits for the engine\n\n"


class ClientGoneError(Exception):
    """The client has left. Nobody is there to be told anything."""


class BadBodyError(Exception):
    """What a client sends is no body."""


class Client:
    """Writes one answer. Slow clients hold up the caller: nothing is buffered beyond the socket's high-water mark."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._response: web.StreamResponse | None = None
        self.came_s = time.monotonic()

    @property
    def age_s(self) -> float:
        """Since it came."""
        return time.monotonic() - self.came_s

    @property
    def has_begun(self) -> bool:
        """Whether it has got a status."""
        return self._response is not None

    async def begin(self, status: int, reason: str | None, headers: Mapping[str, str]) -> None:
        response = web.StreamResponse(status=status, reason=reason, headers=headers)
        has_length = hdrs.CONTENT_LENGTH in response.headers
        if not has_length and status not in (204, 304) and self._request.method != "HEAD":
            if self._request.version >= (1, 1):
                response.enable_chunked_encoding()
            else:
                response.force_close()
        try:
            await response.prepare(self._request)
        except (ConnectionError, OSError):
            raise ClientGoneError from None
        self._response = response

    async def begin_events(self) -> None:
        await self.begin(200, None, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})

    async def write(self, data: bytes) -> None:
        assert self._response is not None
        if data:
            try:
                await self._response.write(data)
            except (ConnectionError, OSError, RuntimeError):
                raise ClientGoneError from None

    async def end(self) -> None:
        assert self._response is not None
        try:
            await self._response.write_eof()
        except (ConnectionError, OSError, RuntimeError):
            raise ClientGoneError from None

    async def keep_alive(self) -> None:
        """A comment, which clients of server-sent events skip."""
        if not self.has_begun:
            await self.begin_events()
        await self.write(KEEP_ALIVE)

    async def fail(self, kind: str, message: str, status: int, retry_after_s: int | None = None) -> None:
        """An error in OpenAI's form: as an answer, or as the last event where one has begun."""
        if self._response is not None:
            await self.write(chunks.error_event(kind, message, status))
            await self.end()
            return
        headers = {"content-type": "application/json"}
        if retry_after_s is not None:
            headers["retry-after"] = str(retry_after_s)
        body = chunks.dump({"error": {"message": message, "type": kind, "param": None, "code": status}})
        await self.begin(status, None, headers | {"content-length": str(len(body))})
        await self.write(body)
        await self.end()

    def cut(self) -> None:
        """Breaks the connection, so that an answer that is not whole does not look like one that is."""
        transport = self._request.transport
        if transport is not None:
            transport.abort()

    @property
    def response(self) -> web.StreamResponse:
        assert self._response is not None
        return self._response


async def parts_of(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body as it comes. Raises ClientGoneError, BadBodyError."""
    try:
        async for part in request.content.iter_any():
            yield part
    except (ConnectionError, OSError, web.PayloadAccessError, asyncio.IncompleteReadError):
        raise ClientGoneError from None
    except (HttpProcessingError, aiohttp.ClientPayloadError, web.RequestPayloadError) as error:
        raise BadBodyError(f"the body is not what its header says: {error!r:.200}") from None


async def read_body(request: web.BaseRequest, limit_bytes: int, fits: Callable[[int], bool]) -> tuple[bytes, bool]:
    """The body, or its beginning, and whether that is all. ``fits`` is told its size as it grows, and ends it.

    Raises ClientGoneError, BadBodyError.
    """
    parts: list[bytes] = []
    size = 0
    async for part in parts_of(request):
        parts.append(part)
        size += len(part)
        if not fits(size) or size > limit_bytes:
            return b"".join(parts), False
    return b"".join(parts), True
