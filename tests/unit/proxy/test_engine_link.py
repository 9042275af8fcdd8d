"""What an engine's shim tells of its server reaches the dialect of the life that it is told of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import web
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
