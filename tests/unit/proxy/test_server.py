"""What passes unprotected: hand-overs that are no longer true, uploads that are none, targets that no engine has."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.http_parser import HttpRequestParserPy
from proxy_samples import (
    COMPLETIONS,
    GREEDY,
    ScriptedEngine,
    Streamed,
    error_of,
    read_rest,
    run,
    running,
    text_of,
    until,
)
from rekindle.proxy.limits import Limits

FETCH = {"do_remote_prefill": True, "remote_block_ids": [[1, 2]], "remote_port": 5}
HANDED = GREEDY | {"kv_transfer_params": FETCH}
LATE = Limits(hand_over_s=0.0, poll_s=0.01, settle_s=0.1, body_bytes=10_000)
"""Every request has waited for too long."""


async def echo(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
    return web.Response(body=body)


def _unknown(engine: ScriptedEngine) -> None:
    engine.models = lambda _: web.json_response({}, status=404)


@pytest.mark.parametrize("way", ["unknown engine", "no room", "another path", "protected"])
def test_a_request_that_was_held_back_is_sent_without_what_it_names(way: str) -> None:
    async def test() -> None:
        engine = ScriptedEngine(echo)
        limits = LATE
        if way == "unknown engine":
            _unknown(engine)
        if way == "no room":
            limits = Limits(hand_over_s=0.0, protected=0)
        path = "/v1/other" if way == "another path" else COMPLETIONS
        async with running(engine, limits) as proxy:
            status, content = await proxy.ask(HANDED | {"n": 2}, path)
            if way == "no room":
                assert (status, error_of(content)) == (503, "rekindle_outdated_request")
                assert not [body for _, body in engine.asked if body], "an engine got it"
            else:
                assert engine.fields(0) == GREEDY | {"n": 2}

    run(test())


@pytest.mark.parametrize("way", ["unknown engine", "another path", "protected"])
def test_a_request_that_comes_in_time_is_sent_as_it_is(way: str) -> None:
    async def test() -> None:
        engine = ScriptedEngine(echo)
        if way == "unknown engine":
            _unknown(engine)
        path = "/v1/other" if way == "another path" else COMPLETIONS
        async with running(engine, Limits(hand_over_s=1e9)) as proxy:
            await proxy.ask(HANDED | {"n": 2}, path)
            assert engine.fields(0) == HANDED | {"n": 2}

    run(test())


LONG = {"prompt": "a" * 20_000}
ESCAPED = json.dumps(HANDED | LONG).replace("do_remote", "d\\u006f_remote").encode()


@pytest.mark.parametrize(
    ("body", "headers", "passes"),
    [
        (json.dumps(HANDED | LONG).encode(), {}, False),
        (json.dumps({"a": LONG} | HANDED).encode(), {}, False),
        (ESCAPED, {}, False),
        (json.dumps(GREEDY | LONG).encode(), {}, True),
        (json.dumps(GREEDY | LONG | {"a": "<\u00e9"}).replace("<", "\\u003c").encode(), {}, True),
        (json.dumps(HANDED).encode(), {"content-encoding": "gzip"}, False),
        (json.dumps(HANDED | LONG).encode(), {"content-type": "multipart/form-data; boundary=x"}, True),
        (b"no json, do_remote_prefill", {}, True),
    ],
    ids=["long", "at its end", "escaped", "names none", "escaped others", "packed", "no JSON", "nonsense"],
)
def test_what_was_held_back_and_cannot_be_read_is_refused_where_it_may_name_pages(
    body: bytes, headers: dict[str, str], passes: bool
) -> None:
    async def test() -> None:
        engine = ScriptedEngine(echo)
        async with running(engine, LATE) as proxy:
            status, content = await proxy.ask(body, headers=headers)
            if passes:
                assert (status, content) == (200, body)
            else:
                assert (status, error_of(content)) == (503, "rekindle_outdated_request")
                assert not [sent for _, sent in engine.asked if sent], "an engine got it"
                assert proxy.counts.failed == {"rekindle_outdated_request": 1}
            assert proxy.counts.engine_deaths == 0

    run(test())


def test_a_request_that_may_have_been_read_on_a_connection_that_broke_names_nothing_a_second_time() -> None:
    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            connections.append(request.transport)
            if connections.count(request.transport) > 1:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            stream = await Streamed(request).begin()
            await stream.say("a", "length")
            return await stream.end()

        connections: list[Any] = []
        engine = ScriptedEngine(answer)
        async with running(engine, Limits(kept_open_s=1e3, drain_s=30.0)) as proxy:
            await proxy.ask(GREEDY | {"stream": True})
            _, content = await proxy.ask(HANDED | {"stream": True})
            assert text_of(content) == "a"
            assert len(engine.asked) == 3
            assert engine.fields(1)["kv_transfer_params"] == FETCH
            assert "kv_transfer_params" not in engine.fields(2)

    run(test())


def test_a_connection_that_is_not_made_in_time_has_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = asyncio.SelectorEventLoop.sock_connect
    engine = ScriptedEngine(echo)
    is_stuck = False

    async def stuck(loop: Any, sock: socket.socket, address: Any) -> None:
        """As where a listener's queue is full: it lets nobody in, and refuses nobody."""
        if is_stuck and address[1] == engine.port:
            await asyncio.sleep(3600)
        await connect(loop, sock, address)

    async def test() -> None:
        nonlocal is_stuck
        async with running(engine, Limits(connect_s=0.2, poll_s=0.01, settle_s=0.1, health_s=0.3)) as proxy:
            is_stuck = True
            asking = [
                asyncio.create_task(proxy.ask(GREEDY | {"stop": "q"})),
                asyncio.create_task(proxy.ask(b"{}", "/v1/embeddings")),
            ]
            await until(lambda: proxy.counts.engine_deaths)
            is_stuck = False
            assert [status for status, _ in await asyncio.gather(*asking)] == [200, 200]
            assert len(engine.asked) == 2
            assert not proxy.counts.failed

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", stuck)
    run(test())


def test_whether_a_connection_was_used_is_asked_of_the_request_that_went_out_last() -> None:
    async def test() -> None:
        from rekindle.proxy.kept import KeptConnector, not_connected, was_used_before

        engine = ScriptedEngine(echo)
        await engine.come()
        async with aiohttp.ClientSession(connector=KeptConnector(1e3)) as session:
            for _ in range(2):
                async with session.post(f"http://127.0.0.1:{engine.port}/") as answer:
                    await answer.read()
            assert was_used_before()
            not_connected()
            assert not was_used_before()
        await engine.go()

    run(test())


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("http://a.b:80/v1/x?a=%2F", "/v1/x?a=%2F"),
        ("HTTP://a.b/v1/x", "/v1/x"),
        ("http://a.b", "/"),
        ("/v1/../x%20", "/v1/../x%20"),
        ("*", None),
        ("ftp://a.b/x", None),
    ],
)
def test_every_form_of_a_target_is_passed_on_or_refused(target: str, asked: str | None) -> None:
    async def test() -> None:
        engine = ScriptedEngine(echo)
        async with running(engine) as proxy:
            head = f"OPTIONS {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            answer = await proxy.raw(head.encode())
            if asked is None:
                assert answer.startswith(b"HTTP/1.1 400 ")
                assert not engine.asked
            else:
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert engine.asked[0][0].raw_path == asked

    run(test())


def test_a_protected_request_with_a_whole_url_is_protected() -> None:
    async def test() -> None:
        engine = ScriptedEngine(echo)
        async with running(engine) as proxy:
            body = json.dumps(GREEDY | {"stop": "q"}).encode()
            head = b"POST http://a.b/v1/completions?x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            answer = await proxy.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert engine.asked[0][0].raw_path == "/v1/completions?x=1"
            assert proxy.counts.protected == 1

    run(test())


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_an_upload_that_is_none_is_its_clients_doing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As aiohttp's parser in Python tells; the one in C says nothing until the client leaves."""
    monkeypatch.setattr("aiohttp.web_protocol.HttpRequestParser", HttpRequestParserPy)

    async def test() -> None:
        engine = ScriptedEngine(echo)
        async with running(engine) as proxy:
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(head.encode() + b"3\r\nabc\r\n")
            await until(lambda: proxy.counts.in_flight)
            writer.write(b"no number\r\n")
            answer = await read_rest(reader)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 400 ")
            await until(lambda: not proxy.counts.in_flight)
            assert not proxy.counts.failed
            status, _ = await proxy.ask(b"{}", "/v1/embeddings")
            assert status == 200
            assert proxy.server._shared is not None
            engine_now = proxy.server._shared.link.engine
            assert engine_now is not None
            assert engine_now.generation == 1, "the engine was taken for dead"

    run(test())


def test_a_get_whose_body_is_used_up_is_not_sent_again_without_it() -> None:
    async def test() -> None:
        async def dies(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            await engine.go()
            return web.Response()

        engine = ScriptedEngine(dies)
        async with running(engine, Limits(poll_s=0.01, settle_s=0.1)) as proxy:
            status, content = await proxy.ask(b"abc", "/v1/x", "GET")
            assert (status, error_of(content)) == (502, "rekindle_engine_died")
            assert [body for _, body in engine.asked] == [b"abc"]

    run(test())


def test_what_goes_wrong_after_a_hundred_continue_is_still_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        engine = ScriptedEngine(echo)
        async with running(engine) as proxy:
            head = b"Expect: 100-continue\r\n"
            reader, writer = await proxy.begin(GREEDY | {"stop": "q"}, head)
            answer = await read_rest(reader)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")

            def breaks(*_: Any) -> Any:
                raise ZeroDivisionError

            monkeypatch.setattr("rekindle.proxy.server.Exchange.__init__", breaks)
            reader, writer = await proxy.begin(GREEDY | {"stop": "q"}, head)
            answer = await read_rest(reader)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 ")

    run(test())


@pytest.mark.parametrize("gives_seeds", [True, False])
def test_seeds_can_be_left_off(gives_seeds: bool) -> None:
    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            stream = await Streamed(request).begin()
            await stream.say("a", "length")
            return await stream.end()

        engine = ScriptedEngine(answer)
        async with running(engine, gives_seeds=gives_seeds) as proxy:
            await proxy.ask({"model": "m", "prompt": "x", "stream": True})
            assert ("seed" in engine.fields(0)) is gives_seeds
            assert proxy.counts.protected == 1

    run(test())
