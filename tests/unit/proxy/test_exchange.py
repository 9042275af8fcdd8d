"""Answers that end badly: what is too long to keep, aborted, or broken off half-way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from proxy_samples import (
    GREEDY,
    MODELS,
    ScriptedEngine,
    Streamed,
    error_of,
    events_of,
    read_rest,
    run,
    running,
    text_of,
    until,
    whole,
)
from rekindle.proxy.limits import Limits

STREAM = GREEDY | {"stream": True}
QUICK = Limits(poll_s=0.01, settle_s=0.2, abort_settle_s=0.2, keep_alive_s=0.1)


@pytest.mark.parametrize("is_readable", [True, False])
def test_a_stream_that_is_no_longer_kept_ends_with_the_engine_and_is_not_sent_again(is_readable: bool) -> None:
    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            stream = await Streamed(request).begin()
            if is_readable:
                await stream.say("abc")
                await stream.say("def")
            else:
                await stream.raw(b"data: " + b"x" * 2000 + b"def")
            await arrived.wait()
            await engine.go()
            return stream.response

        arrived = asyncio.Event()
        engine = ScriptedEngine(answer)
        limits = Limits(poll_s=0.01, settle_s=0.2, keep_alive_s=0.1, journal_bytes=300, event_bytes=1000)
        async with running(engine, limits) as proxy:
            reader, writer = await proxy.begin(STREAM)
            content = await reader.readuntil(b"def")
            arrived.set()
            await until(lambda: proxy.counts.engine_deaths)
            await engine.come()
            content += await read_rest(reader)
            writer.close()
            assert content.count(b"def") == 1
            assert (b"rekindle_not_resumable" in content) is is_readable, "nothing is put into an event"
            assert not content.endswith(b"\r\n0\r\n\r\n") or is_readable
            assert len(engine.asked) == 1

    run(test())


@pytest.mark.parametrize("limit", [1 << 20, 300])
def test_what_is_put_together_is_whole_or_an_error(limit: int) -> None:
    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            stream = await Streamed(request).begin()
            for character in "abcdef":
                await stream.say(character, "length" if character == "f" else None)
            return await stream.end()

        async with running(ScriptedEngine(answer), Limits(journal_bytes=limit)) as proxy:
            status, content = await proxy.ask(GREEDY)
            if limit > 300:
                assert json.loads(content)["choices"][0]["text"] == "abcdef"
            else:
                assert (status, error_of(content)) == (502, "rekindle_answer_too_long")
            assert proxy.kept_bytes == 0

    run(test())


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("whole_from_engine", [True, False])
def test_an_engine_that_aborts_and_lives_on_has_ended_the_answer(streams: bool, whole_from_engine: bool) -> None:
    """As after vLLM's `/pause`: what would follow might be of other weights."""

    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            if not json.loads(body).get("stream"):
                return web.json_response(whole("ab", "abort"))
            stream = await Streamed(request).begin()
            await stream.say("ab")
            await stream.say("", "abort")
            return await stream.end()

        engine = ScriptedEngine(answer)
        async with running(engine, QUICK) as proxy:
            _, content = await proxy.ask(
                GREEDY | {"stream": streams} | ({"n": 1, "stop": "q"} if whole_from_engine else {})
            )
            if streams:
                events = events_of(content)
                assert text_of(content) == "ab"
                assert events[-2]["choices"][0]["finish_reason"] == "abort"
                assert events[-1] is None
            else:
                choice = json.loads(content)["choices"][0]
                assert (choice["text"], choice["finish_reason"]) == ("ab", "abort")
            assert len(engine.asked) == 1
            assert not proxy.counts.resumed
            assert not proxy.counts.engine_deaths

    run(test())


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("whole_from_engine", [True, False])
@pytest.mark.parametrize("goes_at_once", [True, False])
def test_an_engine_that_aborts_and_goes_is_as_one_that_dies(
    streams: bool, whole_from_engine: bool, goes_at_once: bool
) -> None:
    """As vLLM does when it is stopped; its server may still be well for some seconds."""

    async def test() -> None:
        async def dies(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            engine.answer = lives
            if not json.loads(body).get("stream"):
                response: web.StreamResponse = web.json_response(whole("a", "abort"))
                await response.prepare(request)
                await response.write_eof()
            else:
                stream = await Streamed(request).begin()
                await stream.say("a")
                await stream.say("", "abort")
                response = await stream.end()
            if goes_at_once:
                await engine.go()
            return response

        async def lives(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            fields = json.loads(body)
            if not fields.get("stream"):
                return web.json_response(whole("abc"))
            stream = await Streamed(request).begin()
            for character in "abc"[len(fields["prompt"]) - 1 :]:
                await stream.say(character, "length" if character == "c" else None)
            return await stream.end()

        engine = ScriptedEngine(dies)
        limits = Limits(poll_s=0.01, settle_s=0.05, abort_settle_s=1e9, keep_alive_s=0.1)
        async with running(engine, limits) as proxy:
            fields = GREEDY | {"stream": streams} | ({"stop": "q"} if whole_from_engine else {})
            asking = asyncio.create_task(proxy.ask(fields))
            if not goes_at_once:
                await until(lambda: engine.asked)
                checked = engine.checked
                await until(lambda: engine.checked > checked + 20)
                await engine.go()
            await until(lambda: proxy.counts.engine_deaths)
            await engine.come()
            _, content = await asking
            assert (text_of(content) if streams else json.loads(content)["choices"][0]["text"]) == "abc"
            assert b"abort" not in content
            assert sum(proxy.counts.resumed.values()) == 1

    run(test())


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_that_breaks_off_while_it_is_passed_on_is_cut_off_and_nothing_is_put_into_it(
    content_type: str, streams: bool
) -> None:
    """One that is too long to be kept until its end, or no events where events were asked for."""

    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            response = web.StreamResponse(headers={"content-type": content_type})
            await response.prepare(request)
            await response.write(b"x" * 5000)
            await arrived.wait()
            await engine.go()
            return response

        arrived = asyncio.Event()
        engine = ScriptedEngine(answer)
        async with running(engine, Limits(answer_bytes=1000, poll_s=0.01, settle_s=0.1, keep_alive_s=0.05)) as proxy:
            reader, writer = await proxy.begin(GREEDY | {"stop": "q", "stream": streams})
            begun = await reader.readuntil(b"xxx")
            arrived.set()
            await until(lambda: proxy.counts.failed == {"rekindle_engine_died": 1})
            await engine.come()
            begun += await read_rest(reader)
            writer.close()
            assert begun.count(b"HTTP/1.1") == 1
            assert b"rekindle" not in begun
            assert not begun.endswith(b"\r\n0\r\n\r\n"), "it looks whole"
            assert len(engine.asked) == 1

    run(test())


@pytest.mark.parametrize("fields", [{"stop": "q"}, {"stop": "q", "stream": True}, {}])
def test_what_is_kept_of_a_request_is_counted_before_anything_comes(fields: dict[str, Any]) -> None:
    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            await asked.wait()
            return web.json_response(whole("a"))

        asked = asyncio.Event()
        engine = ScriptedEngine(answer)
        async with running(engine) as proxy:
            asking = asyncio.create_task(proxy.ask(GREEDY | fields | {"prompt": [1000] * 100_000}))
            await until(lambda: engine.asked)
            assert proxy.kept_bytes > 4_000_000
            asked.set()
            await asking
            await until(lambda: proxy.kept_bytes == 0)

    run(test())


def test_what_does_not_fit_is_not_even_read_and_passes() -> None:
    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            return web.Response(body=body)

        async with running(ScriptedEngine(answer), Limits(journals_bytes=0)) as proxy:
            _, content = await proxy.ask(GREEDY)
            assert json.loads(content) == GREEDY
            assert proxy.counts.unprotected == {"room": 1}

    run(test())


def test_an_answer_that_does_not_stream_may_outlive_more_than_two_engines_that_lived_with_it() -> None:
    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            await done.wait()
            return web.json_response(whole("a"))

        done = asyncio.Event()
        engine = ScriptedEngine(answer)
        limits = Limits(poll_s=0.01, settle_s=0.1, keep_alive_s=0.1, proof_s=0.1, outlived_s=0.3)
        async with running(engine, limits) as proxy:
            asking = asyncio.create_task(proxy.ask(GREEDY | {"stop": "q"}))
            for life in range(1, 6):
                await until(lambda count=life: len(engine.asked) == count)
                # From the second death on it would be a suspect, if its engines had not lived with it for a while.
                await asyncio.sleep(2 * limits.outlived_s)
                await until(lambda: proxy.counts.suspects == 0)
                await engine.go()
                await until(lambda count=life: proxy.counts.engine_deaths == count)
                await engine.come()
            await until(lambda: len(engine.asked) == 6)
            done.set()
            status, _ = await asking
            assert status == 200

    run(test())


def test_an_engine_that_dies_while_it_is_asked_for_its_models_is_not_another_kind_of_engine() -> None:
    async def test() -> None:
        async def dies(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            stream = await Streamed(request).begin()
            await stream.say("a")
            await engine.go()
            return stream.response

        async def lives(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            stream = await Streamed(request).begin()
            for character in "ab"[len(json.loads(body)["prompt"]) - 1 :]:
                await stream.say(character, "length" if character == "b" else None)
            return await stream.end()

        def breaks(request: web.BaseRequest) -> web.Response:
            tried.append(len(tried))
            if len(tried) > 3:
                return web.json_response(MODELS)
            if len(tried) == 2:
                return web.Response(status=503)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        tried: list[int] = []
        engine = ScriptedEngine(dies)
        async with running(engine, QUICK) as proxy:
            asking = asyncio.create_task(proxy.ask(STREAM))
            await until(lambda: proxy.counts.engine_deaths)
            engine.answer, engine.models = lives, breaks
            await engine.come()
            _, content = await asking
            assert text_of(content) == "ab"
            assert len(tried) == 4

    run(test())


def test_bodies_that_come_together_are_not_read_beyond_the_room_that_there_is() -> None:
    async def test() -> None:
        async def answer(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            return web.Response(body=body)

        body = json.dumps(GREEDY | {"prompt": "a" * 500_000}).encode()
        async with running(ScriptedEngine(answer), Limits(journals_bytes=100_000)) as proxy:
            answers = await asyncio.gather(*[proxy.ask(body) for _ in range(8)])
            assert answers == [(200, body)] * 8
            assert proxy.counts.unprotected == {"room": 8}
            await until(lambda: proxy.kept_bytes == 0)

    run(test())


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("somebody_comes", [True, False])
def test_a_server_that_waits_for_its_clients_to_leave_while_its_engine_is_gone_is_hung_up_on(
    streams: bool, somebody_comes: bool
) -> None:
    """As vLLM's API server does, when it alone is told to stop."""

    async def test() -> None:
        async def stops(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            engine.answer = lives
            await engine.close()
            if not streams:
                await asyncio.sleep(3600)
            stream = await Streamed(request).begin()
            await stream.say("a")
            await asyncio.sleep(3600)
            return stream.response

        async def lives(engine: ScriptedEngine, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
            fields = json.loads(body)
            if not fields.get("stream"):
                return web.json_response(whole("abc"))
            stream = await Streamed(request).begin()
            for character in "abc"[len(fields["prompt"]) - 1 :]:
                await stream.say(character, "length" if character == "c" else None)
            return await stream.end()

        engine = ScriptedEngine(stops)
        async with running(engine, Limits(quiet_s=0.05, poll_s=0.01, settle_s=0.1, keep_alive_s=0.1)) as proxy:
            asking = [asyncio.create_task(proxy.ask(GREEDY | {"stop": "q", "stream": streams}))]
            await until(lambda: engine.asked)
            if somebody_comes:
                asking.append(asyncio.create_task(proxy.ask(b"{}", "/v1/embeddings")))
            transport = engine.asked[0][0].transport
            await until(lambda: transport is None or transport.is_closing())
            await until(lambda: proxy.counts.engine_deaths)
            await engine.come()
            for status, content in await asyncio.gather(*asking):
                assert status == 200
                assert b"error" not in content
            assert proxy.counts.resumed

    run(test())
