"""A request that passes through: nothing of it is read, kept or changed but the headers of one hop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from aiohttp import web
from rekindle_plugins.contract.errors import UnavailableError

from rekindle.proxy.client import Client, ClientGoneError
from rekindle.proxy.engine_link import Engine, EngineLink
from rekindle.proxy.headers import end_to_end

_SAFE = ("GET", "HEAD", "OPTIONS")
ENGINE_ERRORS = (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError)
"""What the session raises when the engine goes. A client's own leaving is a ClientGoneError by then."""


class EngineGoneError(Exception):
    """The engine's connection broke. ``sent``: it may have seen the request."""

    def __init__(self, problem: str, sent: bool) -> None:
        super().__init__(problem)
        self.sent = sent


async def pass_through(
    link: EngineLink,
    session: aiohttp.ClientSession,
    request: web.BaseRequest,
    client: Client,
    engine: Engine,
    body: Any,
) -> None:
    """``body``: bytes, an async iterator of what is left of it, or None.

    Raises EngineGoneError when nothing has reached the client; UnavailableError when the answer has broken off, after
    the client's connection was cut.
    """
    headers = end_to_end(request.headers)
    connected = False
    try:
        with link.awaiting():
            async with session.request(
                request.method, link.url(request.raw_path), data=body, headers=headers, allow_redirects=False
            ) as answer:
                connected = True
                await relay(answer, client)
    except aiohttp.ClientConnectorError as error:
        raise EngineGoneError(str(error), sent=False) from None
    except ENGINE_ERRORS as error:
        if not client.has_begun:
            raise EngineGoneError(str(error) or repr(error), sent=request.method not in _SAFE) from None
        client.cut()
        problem = "its connection broke" if connected else "it went away"
        raise UnavailableError("pass through", request.path, problem) from None


async def relay(answer: aiohttp.ClientResponse, client: Client, before: bytes = b"") -> None:
    """An answer as it is, and to its end. ``before``: what was read of it already."""
    await client.begin(answer.status, answer.reason, end_to_end(answer.headers))
    await client.write(before)
    async for part in answer.content.iter_any():
        await client.write(part)
    await client.end()


async def rest_of(request: web.BaseRequest, before: bytes) -> AsyncIterator[bytes]:
    """A body whose beginning was read. Raises ClientGoneError."""
    yield before
    try:
        async for part in request.content.iter_any():
            yield part
    except (ConnectionError, OSError, web.PayloadAccessError):
        raise ClientGoneError from None


def has_body(headers: Mapping[str, str]) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
