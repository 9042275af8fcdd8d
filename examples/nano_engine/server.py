"""The engine behind HTTP: OpenAI-compatible completions, health, metrics.

Runs on the process's main thread, in asyncio. It gives orders to the engine thread (`EngineLoop`) and never
waits for it except through futures and queues; tokens come back by `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

from nano_engine.completion import CompletionParams, CompletionWriter, parse_completion
from nano_engine.engine import Engine, Output
from nano_engine.http1 import (
    MAX_HEAD_BYTES,
    EventStream,
    HttpError,
    HttpRequest,
    read_request,
    send,
    send_error,
    send_json,
)
from nano_engine.loop import EngineLoop
from nano_engine.request import RequestError

MODEL_NAME = "nano"


class _ClientGone(Exception):
    """The client hung up before its answer was complete."""


class Server:
    """Serves one engine. Build it, and run all of it, on one event loop."""

    def __init__(self, engine_loop: EngineLoop) -> None:
        self._engine_loop = engine_loop
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._routes: dict[tuple[str, str], Callable[..., Any]] = {
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/reset_prefix_cache"): self._reset_prefix_cache,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
        }

    async def listen(self, host: str, port: int) -> int:
        """Begin to serve; returns the port, which the system picks when `port` is 0. Raises OSError."""
        self._listener = await asyncio.start_server(self._connection, host, port, limit=MAX_HEAD_BYTES)
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening and hang up on everybody."""
        if self._listener is not None:
            self._listener.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read a request and answer it. True if the connection can take another."""
        try:
            request = await read_request(reader, writer)
        except HttpError as error:
            send_error(writer, error, keep_alive=False)
            await writer.drain()
            return False
        if request is None:
            return False
        try:
            await self._route(request)(request, reader, writer)
        except HttpError as error:
            send_error(writer, error, request.keep_alive)
        except _ClientGone:
            return False
        await writer.drain()
        return request.keep_alive

    def _route(self, request: HttpRequest) -> Callable[..., Any]:
        handler = self._routes.get((request.method, request.path))
        if handler is not None:
            return handler
        if any(path == request.path for _, path in self._routes):
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} is not allowed on {request.path}")
        raise HttpError(HTTPStatus.NOT_FOUND, f"there is no {request.path}")

    async def _complete(self, request: HttpRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request_id = "cmpl-" + os.urandom(12).hex()
        try:
            params = parse_completion(request.body)
            self._engine_loop.engine.check(params.request(request_id))
        except RequestError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, str(error)) from None
        outputs = self._outputs(request_id, params, reader)
        answer = CompletionWriter(params, request_id, MODEL_NAME)
        try:
            if params.stream:
                await self._answer_in_events(outputs, answer, EventStream(writer))
            else:
                await self._answer_whole(outputs, answer, writer, request.keep_alive)
        finally:
            await outputs.aclose()

    async def _outputs(
        self, request_id: str, params: CompletionParams, reader: asyncio.StreamReader
    ) -> AsyncGenerator[Output, None]:
        """Submit, and yield outputs to the last. Raises _ClientGone when the client hangs up first.

        Whichever way this is left early, the engine is told to abort.
        """
        arrived: asyncio.Queue[Output | None] = asyncio.Queue()
        event_loop = asyncio.get_running_loop()

        def sink(output: Output) -> None:
            # The engine may outlive the event loop by a moment when the process stops.
            if not event_loop.is_closed():
                event_loop.call_soon_threadsafe(arrived.put_nowait, output)

        # Nothing is to be read until the answer is complete, so whatever this returns means the client's end.
        hang_up = asyncio.ensure_future(_read_to_hang_up(reader))
        hang_up.add_done_callback(lambda _: arrived.put_nowait(None))
        self._engine_loop.submit(params.request(request_id), sink)
        try:
            while True:
                output = await arrived.get()
                if output is None:
                    raise _ClientGone
                yield output
                if output.finish is not None:
                    break
        finally:
            self._engine_loop.abort(request_id)
            hang_up.cancel()
            # The next request may be read only when this reading has really ended.
            await asyncio.wait([hang_up])

    async def _answer_in_events(
        self, outputs: AsyncIterator[Output], answer: CompletionWriter, events: EventStream
    ) -> None:
        generated = cached = 0
        async for output in outputs:
            tokens = () if output.token is None else (output.token,)
            generated, cached = generated + len(tokens), output.cached_tokens
            await events.send(json.dumps(answer.chunk(tokens, output.finish)))
        await events.send(json.dumps(answer.usage_chunk(generated, cached)))
        await events.send("[DONE]")
        await events.end()

    async def _answer_whole(
        self, outputs: AsyncIterator[Output], answer: CompletionWriter, writer: asyncio.StreamWriter, keep_alive: bool
    ) -> None:
        tokens: list[int] = []
        async for output in outputs:
            if output.token is not None:
                tokens.append(output.token)
            if output.finish is not None:
                send_json(writer, HTTPStatus.OK, answer.whole(tokens, output.finish, output.cached_tokens), keep_alive)

    async def _reset_prefix_cache(
        self, request: HttpRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answers when the cache is empty."""
        done = asyncio.Event()
        event_loop = asyncio.get_running_loop()
        self._engine_loop.reset(lambda: event_loop.call_soon_threadsafe(done.set))
        await done.wait()
        send_json(writer, HTTPStatus.OK, {}, request.keep_alive)

    async def _health(self, request: HttpRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._engine_loop.alive:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "the engine thread has ended")
        send_json(writer, HTTPStatus.OK, {}, request.keep_alive)

    async def _models(self, request: HttpRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit = self._engine_loop.engine.cache.geometry.max_context
        model = {"id": MODEL_NAME, "object": "model", "owned_by": "rekindle", "max_model_len": limit}
        send_json(writer, HTTPStatus.OK, {"object": "list", "data": [model]}, request.keep_alive)

    async def _metrics(self, request: HttpRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = metrics_text(self._engine_loop.engine)
        send(writer, HTTPStatus.OK, "text/plain; version=0.0.4", text.encode(), request.keep_alive)


async def _read_to_hang_up(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read(1)


def metrics_text(engine: Engine) -> str:
    """Prometheus text. Plain integers, read while the engine thread writes them: each is exact, some moments apart."""
    scheduler, counts = engine.scheduler, engine.scheduler.counts
    rows = [
        ("prefix_cache_queries_tokens_total", "counter", "Tokens looked up at admission.", counts.queried_tokens),
        ("prefix_cache_hit_tokens_total", "counter", "Of those, found in the engine's cache.", counts.hit_tokens),
        ("loaded_tokens_total", "counter", "Tokens whose KV the plugin loaded on request.", counts.loaded_tokens),
        ("prompt_tokens_computed_total", "counter", "Prompt tokens run.", engine.computed_prompt_tokens),
        ("generated_tokens_total", "counter", "Tokens generated.", engine.generated_tokens),
        ("steps_total", "counter", "Steps that ran anything.", engine.step_count),
        ("preemptions_total", "counter", "Requests that lost their pages.", counts.preemptions),
        ("pages_total", "gauge", "Pages of the cache.", engine.pool.page_count),
        ("pages_used", "gauge", "Pages somebody holds.", engine.pool.held_count),
        ("pages_blank", "gauge", "Pages without a key that nobody holds.", engine.pool.blank_count),
        ("requests_running", "gauge", "Requests in the batch.", len(scheduler.running)),
        ("requests_waiting", "gauge", "Requests waiting for a seat, pages or a load.", scheduler.waiting_count),
    ]
    return "".join(
        f"# HELP nano_{name} {text}\n# TYPE nano_{name} {kind}\nnano_{name} {value}\n"
        for name, kind, text, value in rows
    )
