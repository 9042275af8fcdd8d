"""Which dialect an engine has, and that what its shim tells of its server reaches it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from proxy_samples import GREEDY, ScriptedEngine, run, running, until
from rekindle.proxy.engine_link import EngineLink
from rekindle.proxy.limits import Limits
from rekindle_plugins.vllm.adapter import VllmAdapter
from rekindle_plugins.vllm.dialect import VllmDialect

MODELS = {"object": "list", "data": [{"id": "m", "owned_by": "vllm"}]}
TOLD = {"defaults": {"top_p": 0.9}, "max_tokens_cap": 7, "context_tokens": 64, "logits_processors": False}
OTHER = TOLD | {"max_tokens_cap": 8}


async def _answer(request: web.BaseRequest) -> web.Response:
    return web.json_response(MODELS if request.path == "/v1/models" else {})


async def _server_told(*told: Sequence[tuple[str, Mapping[str, Any] | None]]) -> list[Any]:
    """What the dialect knows of its server after each of them; the first is told before the engine is found."""
    runner = web.ServerRunner(web.Server(_answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        link = EngineLink(f"http://127.0.0.1:{port}", [VllmAdapter()], session, Limits())
        link.told(told[0])
        link.start()
        engine = await link.wait(30.0)
        assert isinstance(engine.dialect, VllmDialect)
        known = [engine.dialect.server]
        for more in told[1:]:
            link.told(more)
            known.append(engine.dialect.server)
        await link.stop()
    await runner.cleanup()
    return [None if server is None else server.max_tokens_cap for server in known]


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ([[("vllm", TOLD)], [("vllm", OTHER)], []], [7, 8, None]),
        ([[], [("vllm", TOLD)]], [None, 7]),
        ([[("vllm", TOLD), ("vllm", TOLD), ("nano", OTHER)]], [7]),
        ([[("vllm", TOLD), ("vllm", OTHER)], [("vllm", TOLD), ("vllm", None)]], [None, None]),
        ([[("nano", TOLD)], [("vllm", None)], [("vllm", {"defaults": 1})]], [None, None, None]),
    ],
    ids=["changes", "late", "of one kind", "contradictions", "of others"],
)
def test_what_is_told_holds_while_all_engines_of_the_kind_say_it(told: Any, known: list[int | None]) -> None:
    assert asyncio.run(asyncio.wait_for(_server_told(*told), 60)) == known


async def _never(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
    return web.Response(body=body)


@pytest.mark.parametrize(("status", "unknown"), [(404, "dialect"), (401, "key"), (403, "key"), (200, "dialect")])
def test_an_engine_that_has_said_what_it_is_passes_through_and_that_is_counted(
    status: int, unknown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("rekindle.proxy.engine_link.LOG.warning", lambda *said, **more: told.append((said, more)))

    async def test() -> None:
        engine = ScriptedEngine(_never)
        engine.models = lambda _: web.json_response({}, status=status)
        async with running(engine, Limits(dialect_s=1e9)) as proxy:
            assert (await proxy.ask(b"{}"))[1] == b"{}"
            await proxy.ask(b"{}", "/v1/embeddings")
            assert proxy.counts.unprotected == {unknown: 1}
            ((said, more),) = told
            assert "not known" in said[0]
            assert ("--proxy-api-key-file" in more["extra"]["hint"]) is (unknown == "key")

    run(test())


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_an_engine_that_does_not_say_what_it_is_is_taken_as_it_is_after_a_while(status: int) -> None:
    async def test() -> None:
        def answer(request: web.BaseRequest) -> web.Response:
            asked.append(time.monotonic())
            if not status and request.transport is not None:
                request.transport.abort()
            return web.Response(status=status or 200)

        asked: list[float] = []
        engine = ScriptedEngine(_never)
        engine.models = answer
        async with running(engine, Limits(dialect_s=0.3, poll_s=0.01)) as proxy:
            assert (await proxy.ask(b"{}"))[1] == b"{}"
            assert asked[-1] - asked[0] > 0.25
            assert proxy.counts.unprotected == {"dialect": 1}

    run(test())


def test_a_slow_answer_is_waited_for() -> None:
    async def test() -> None:
        async def slow(request: web.BaseRequest) -> web.Response:
            if request.path == "/v1/models":
                asked.append(request.path)
                if len(asked) < 3:
                    await asyncio.sleep(3600)
            return await _answer(request)

        asked: list[str] = []
        runner = web.ServerRunner(web.Server(slow), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            link = EngineLink(
                f"http://127.0.0.1:{runner.addresses[0][1]}", [VllmAdapter()], session, Limits(health_s=0.5)
            )
            link.start()
            assert isinstance((await link.wait(30.0)).dialect, VllmDialect)
            await link.stop()
        await runner.cleanup()

    run(test())


@pytest.mark.parametrize("key", ["", "right", "wrong"])
def test_an_engine_with_a_key_is_asked_with_it_and_clients_keep_their_own(key: str) -> None:
    async def test() -> None:
        def models(request: web.BaseRequest) -> web.Response:
            is_right = request.headers.get("authorization") == "Bearer right"
            return web.json_response(MODELS) if is_right else web.json_response({"error": "Unauthorized"}, status=401)

        async def dies_once(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            assert request.headers["authorization"] == "Bearer a client's"
            if len(engine.asked) == 1:
                await engine.go()
            return web.json_response({})

        engine = ScriptedEngine(dies_once)
        engine.models = models
        async with running(engine, Limits(poll_s=0.01, settle_s=0.1), key=lambda: key) as proxy:
            asking = asyncio.create_task(
                proxy.ask(GREEDY | {"stop": "q"}, headers={"authorization": "Bearer a client's"})
            )
            await until(lambda: proxy.counts.engine_deaths)
            await engine.come()
            status, _ = await asking
            assert status == (200 if key == "right" else 502)
            assert proxy.counts.protected == (1 if key == "right" else 0)
            assert proxy.counts.unprotected == ({} if key == "right" else {"key": 1})

    run(test())
