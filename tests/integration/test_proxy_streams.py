"""Streams through the proxy while their engine is killed: nobody notices more than a pause."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Pod, Proxied, Reference, StreamClient, until
from driving.reference import prompt

COUNT, TOKENS, STEPS = 8, 120, 40
"""After so many steps some tokens of an answer are there, and after a few times as many it is not at its end."""


@pytest.fixture
def proxied(make_pod: Callable[..., Pod]) -> Proxied:
    return Proxied(make_pod).start()


@pytest.fixture
def held(make_pod: Callable[..., Pod]) -> Proxied:
    """Its first engine waits in the middle of the answers to be killed."""
    proxied = Proxied(make_pod)
    with proxied.waiting_engine(STEPS):
        return proxied.start()


def expected(reference: Reference, client: StreamClient) -> str:
    return bytes(reference.tokens(client.body["prompt"], client.body["max_tokens"])).decode()


def check(reference: Reference, client: StreamClient) -> None:
    """It looks like the answer of an engine that never died, in every field."""
    client.finished()
    count, limit = len(client.body["prompt"]), client.body["max_tokens"]
    assert client.text == expected(reference, client)
    assert client.finish == "length"
    assert len({(event["id"], event["created"], event["model"]) for event in client.events}) == 1
    usage = {name: client.usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    assert usage == {"prompt_tokens": count, "completion_tokens": limit, "total_tokens": count + limit}
    if client.body.get("return_token_ids"):
        assert bytes(client.tokens).decode() == client.text
        prompts = [
            c["prompt_token_ids"] for event in client.events for c in event["choices"] if "prompt_token_ids" in c
        ]
        assert prompts == [client.body["prompt"]]
    else:
        assert not any("token_ids" in choice for event in client.events for choice in event["choices"])


def test_many_streams_live_through_a_kill_and_another_one_during_the_recovery(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    proxied = Proxied(make_pod)
    with proxied.waiting_engine(STEPS, COUNT):
        proxied.start()
    clients = [
        proxied.stream(prompt(60 + 30 * index, index), 2 * TOKENS, return_token_ids=True if index % 2 else None)
        for index in range(COUNT)
    ]
    for client in clients:
        client.when(20)
    proxied.engine.kill()
    until("every answer to pause", lambda: all(client.comments for client in clients))
    before = sum(len(client.text) for client in clients)
    with proxied.waiting_engine(STEPS, COUNT):
        proxied.engine.start()
    until("an answer to go on", lambda: sum(len(client.text) for client in clients) > before)
    proxied.engine.kill()
    proxied.engine.start(wait=False)
    until("the engine to attach", lambda: proxied.pod.sidecar.engines())
    proxied.engine.kill()
    assert not any(client.is_over for client in clients), "it was to be killed in the middle"
    proxied.engine.start()
    for client in clients:
        check(reference, client)


@pytest.mark.parametrize("seen", [0, 1, 2, TOKENS - 1, TOKENS])
def test_a_kill_at_the_first_and_at_the_last_token_is_as_any_other(
    proxied: Proxied, reference: Reference, seen: int
) -> None:
    for index in range(3):
        client = proxied.stream(prompt(400 if seen == 0 else 40, index), TOKENS)
        client.when(seen)
        proxied.engine.restart()
        check(reference, client)


def test_an_answer_that_does_not_stream_goes_on_too_and_has_the_engines_own_fields(
    proxied: Proxied, reference: Reference
) -> None:
    untouched = StreamClient(proxied.engine.settings["port"], prompt(50), TOKENS, stream=None).finished()
    through = proxied.stream(prompt(50), TOKENS, stream=None).finished()
    with proxied.waiting_engine(STEPS):
        proxied.engine.restart()
    client = proxied.stream(prompt(50), TOKENS, stream=False, cache_salt="another")
    until("some tokens", lambda: proxied.engine.metric("generated_tokens_total") > 10)
    proxied.engine.restart()
    client.finished()
    for one in (through, client):
        assert one.answer["choices"] == untouched.answer["choices"]
        assert set(one.answer) == set(untouched.answer)
        # aiohttp adds a date and a server where an engine, as this one, names none.
        assert one.headers.keys() - {"date", "server"} == untouched.headers.keys() - {"connection"}
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        assert [one.answer["usage"][name] for name in counts] == [untouched.answer["usage"][name] for name in counts]
    assert untouched.answer["choices"][0]["text"] == expected(reference, client)
    assert proxied.engine.metric("generated_tokens_total") < TOKENS, "what had been generated was generated again"


def test_what_cannot_be_continued_is_replayed_and_compared(held: Proxied, reference: Reference) -> None:
    # The nano engine accepts a penalty and does nothing about it; the dialect cannot know that.
    client = held.stream(prompt(80), TOKENS, presence_penalty=0.5)
    client.when(30)
    held.engine.restart()
    check(reference, client)
    assert "way=replay" in held.pod.sidecar.output()


def test_an_engine_that_says_something_else_ends_the_answer_with_the_reason(
    held: Proxied, reference: Reference
) -> None:
    client = held.stream(prompt(80), TOKENS, presence_penalty=0.5)
    client.when(30)
    held.engine.kill()
    held.engine.settings["seed"] = 7
    held.engine.start()
    client.ended()
    assert client.error["type"] == "rekindle_not_resumable"
    assert "other tokens" in client.error["message"]
    assert expected(reference, client).startswith(client.text), "it got a token of another model"
    assert not client.is_done


def test_an_engine_that_is_stopped_is_as_one_that_dies(proxied: Proxied, reference: Reference) -> None:
    client = proxied.stream(prompt(80), TOKENS)
    client.when(10)
    proxied.engine.terminate()
    proxied.engine.start()
    check(reference, client)


def test_a_new_request_waits_for_the_engine(proxied: Proxied, reference: Reference) -> None:
    proxied.engine.kill()
    client = proxied.stream(prompt(80), 20)
    until("the proxy to notice", lambda: "engine away" in proxied.pod.sidecar.output())
    assert not client.is_over
    assert client.status == 0, "nothing is said before there is an engine"
    proxied.engine.start()
    check(reference, client)


def test_streams_outlive_the_sidecar_and_the_next_one_takes_the_port(proxied: Proxied, reference: Reference) -> None:
    old = proxied.stream(prompt(80, 1), 1000)
    old.when(5)
    proxied.pod.sidecar.kill()
    proxied.pod.sidecar.start()
    new = proxied.stream(prompt(80, 2), 20)
    check(reference, new)
    check(reference, old)


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_sidecar_that_is_stopped_waits_for_its_streams(
    make_pod: Callable[..., Pod], reference: Reference, tmp_path: Path
) -> None:
    proxied = Proxied(make_pod, proxy_drain="10m")
    with proxied.waiting_engine(STEPS, file=tmp_path / "go on"):
        proxied.start()
    client = proxied.stream(prompt(80), TOKENS)
    client.when(5)
    sidecar = proxied.pod.sidecar.process
    assert sidecar is not None
    sidecar.signal(signal.SIGTERM)
    until("the proxy to let nobody in", lambda: _refuses(proxied.port))
    assert sidecar.is_running
    assert not client.is_over
    (tmp_path / "go on").touch()
    check(reference, client)
    assert sidecar.wait(60.0) == 0


@pytest.mark.parametrize("has_engine", [True, False])
def test_a_sidecar_that_is_stopped_waits_so_long_and_only_while_there_is_an_engine(
    make_pod: Callable[..., Pod], has_engine: bool
) -> None:
    proxied = Proxied(make_pod, proxy_drain="300ms" if has_engine else "10m")
    with proxied.waiting_engine(STEPS):
        proxied.start()
    client = proxied.stream(prompt(80), TOKENS)
    client.when(5)
    if not has_engine:
        proxied.engine.kill()
        until("the proxy to notice", lambda: "engine away" in proxied.pod.sidecar.output())
    sidecar = proxied.pod.sidecar.process
    assert sidecar is not None
    sidecar.signal(signal.SIGTERM)
    assert sidecar.wait(60.0) == 0
    assert client.ended().broken


def test_a_proxy_that_dies_is_started_again_on_its_port(proxied: Proxied, reference: Reference) -> None:
    first = proxied.stream(prompt(80, 1), 1000)
    first.when(5)
    (pid,) = {
        int(line.split("pid=")[1].split()[0])
        for line in proxied.pod.sidecar.output().splitlines()
        if 'event="proxy listening"' in line
    }
    os.kill(pid, signal.SIGKILL)
    assert first.ended().broken
    until("a new proxy", lambda: proxied.pod.sidecar.output().count('event="proxy listening"') == 2)
    check(reference, proxied.stream(prompt(80, 2), 20))


def test_a_client_that_leaves_ends_its_request_at_the_engine(proxied: Proxied, reference: Reference) -> None:
    client = proxied.stream(prompt(80), 3000)
    client.when(5)
    proxied.engine.when_metric("requests_running", 1)
    client.hang_up()
    proxied.engine.when_metric("requests_running", 0)
    waiting = proxied.stream(prompt(81), 3000)
    waiting.when(5)
    proxied.engine.kill()
    until("a comment", lambda: waiting.comments)
    waiting.hang_up()
    proxied.engine.start()
    check(reference, proxied.stream(prompt(82), 20))
    assert proxied.engine.metric("requests_running") == 0
    assert proxied.engine.metric("generated_tokens_total") == 20, "somebody who had left was served"
