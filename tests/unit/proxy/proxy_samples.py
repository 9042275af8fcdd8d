"""A proxy in this process between real sockets, and an engine that answers completions as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import aiohttp
from aiohttp import web
from driving.proxied import free_port
from rekindle.config import HttpAddress
from rekindle.proxy.counts import Counts
from rekindle.proxy.limits import Limits
from rekindle.proxy.server import ProxyServer
from rekindle_plugins.vllm.adapter import VllmAdapter

PATIENCE_S = 60.0
COMPLETIONS = "/v1/completions"
MODELS = {"object": "list", "data": [{"id": "m", "owned_by": "vllm"}]}
GREEDY: dict[str, Any] = {"model": "m", "prompt": "x", "max_tokens": 100, "temperature": 0}
SERVER = {"defaults": {}, "max_tokens_cap": None, "context_tokens": None, "logits_processors": False}

Answer = Callable[["ScriptedEngine", web.BaseRequest, bytes], Awaitable[web.StreamResponse]]


class ScriptedEngine:
    """Speaks as vLLM. `answer` is given every request but the proxy's own questions, and may be changed at any time."""

    def __init__(self, answer: Answer) -> None:
        self.port = free_port()
        self.answer = answer
        self.models: Callable[[web.BaseRequest], web.Response] = lambda _: web.json_response(MODELS)
        self.asked: list[tuple[web.BaseRequest, bytes]] = []
        self._closed: list[web.ServerRunner] = []
        self.checked = 0
        """How often it was asked whether it is well."""
        self._runner: web.ServerRunner | None = None

    async def come(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        """Lets nobody in, and leaves those alone that are there; then another one may `come`."""
        assert self._runner is not None
        for site in list(self._runner.sites):
            await site.stop()
        self._closed.append(self._runner)
        self._runner = None

    async def go(self) -> None:
        """Hangs up on everybody. Safe to call twice."""
        runners = [*self._closed, *([self._runner] if self._runner else [])]
        self._closed, self._runner = [], None
        for runner in runners:
            for connection in list(runner.server.connections) if runner.server else ():
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/health":
            self.checked += 1
            return web.Response()
        if request.path == "/v1/models":
            return self.models(request)
        if request.path == "/v1/chat/completions":
            return web.json_response({}, status=404)
        body = await request.read()
        self.asked.append((request, body))
        return await self.answer(self, request, body)

    def fields(self, index: int) -> dict[str, Any]:
        """Of the request that came so manieth."""
        found: dict[str, Any] = json.loads(self.asked[index][1])
        return found


class Streamed:
    """An answer of events that a test gives out one by one. A token is a byte."""

    def __init__(self, request: web.BaseRequest, prompt: str = "x") -> None:
        self._request = request
        self._prompt = list(prompt.encode())
        self.response = web.StreamResponse(headers={"content-type": "text/event-stream"})

    async def begin(self) -> Streamed:
        await self.response.prepare(self._request)
        return self

    async def raw(self, data: bytes) -> None:
        await self.response.write(data)

    async def say(self, text: str, finish: str | None = None) -> None:
        choice = {"index": 0, "text": text, "finish_reason": finish, "token_ids": list(text.encode())}
        choice["prompt_token_ids"], self._prompt = self._prompt or None, []
        event = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
        await self.raw(b"data: %b\n\n" % json.dumps(event).encode())

    async def end(self) -> web.StreamResponse:
        await self.raw(b"data: [DONE]\n\n")
        await self.response.write_eof()
        return self.response


def whole(text: str, finish: str = "length") -> dict[str, Any]:
    """An answer that does not stream."""
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [{"index": 0, "text": text, "finish_reason": finish}],
    }


class Running:
    """A proxy that runs."""

    def __init__(self, server: ProxyServer, port: int, session: aiohttp.ClientSession) -> None:
        self.server, self.port, self._session = server, port, session

    @property
    def counts(self) -> Counts:
        return self.server.counts

    @property
    def kept_bytes(self) -> int:
        assert self.server._shared is not None
        return self.server._shared.room.journal_bytes

    async def ask(
        self,
        body: Any = GREEDY,
        path: str = COMPLETIONS,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body. Raises aiohttp.ClientError where the answer broke off."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        more = {"content-type": "application/json"} | dict(headers or {})
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self._session.request(method, url, data=data, headers=more) as answer:
            return answer.status, await answer.read()

    async def begin(self, body: Any, head: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A completion whose answer the test reads itself, bytes as they come."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        head += b"Host: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data)
        writer.write(b"POST /v1/completions HTTP/1.1\r\n" + head + data)
        return reader, writer

    async def raw(self, data: bytes) -> bytes:
        """What comes for these bytes until the proxy hangs up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def running(engine: ScriptedEngine, limits: Limits | None = None, **more: Any) -> AsyncIterator[Running]:
    """A proxy before this engine, which is there."""
    await engine.come()
    server = ProxyServer(
        HttpAddress("127.0.0.1", 0), f"http://127.0.0.1:{engine.port}", [VllmAdapter()], limits or Limits(), **more
    )
    address = await server.start()
    server.told([("vllm", SERVER)])
    async with aiohttp.ClientSession() as session:
        try:
            link = server._shared.link if server._shared else None
            await until(lambda: link is not None and link.engine is not None)
            yield Running(server, address.port, session)
        finally:
            await server.stop()
            await engine.go()


async def until(what: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline_s, "it never happens"
        await asyncio.sleep(0.01)


def run(test: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE_S))


def events_of(content: bytes) -> list[Any]:
    """What a client makes of a stream, comments left out; [DONE] is None."""
    lines = [line[6:] for line in content.decode().split("\n\n") if line.startswith("data: ")]
    return [None if line == "[DONE]" else json.loads(line) for line in lines]


def text_of(content: bytes) -> str:
    events = [event for event in events_of(content) if event]
    return "".join(choice["text"] for event in events for choice in event.get("choices", ()))


def error_of(content: bytes) -> str:
    """The type of our error, which is the last event or the whole answer."""
    last = events_of(content)[-1] if content.startswith(b"data: ") else json.loads(content)
    return str(last["error"]["type"])


async def read_rest(reader: asyncio.StreamReader) -> bytes:
    """However it ends."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(1 << 16):
            parts.append(part)
    return b"".join(parts)
