"""Any number of SIGKILLs at moments drawn from a seed, under streams through the proxy: each gets its answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from driving import Pod, Proxied, Reference, StreamClient, until
from driving.reference import prompt
from rekindle.proxy.limits import PROGRESS_TOKENS

STREAMS = 8
STILL = PROGRESS_TOKENS + 1
KILL_S = 60.0


@pytest.fixture
def proxied() -> Iterator[Proxied]:
    with ExitStack() as pods:
        made: list[Pod] = []

        def make(**settings: str) -> Pod:
            made.append(pods.enter_context(Pod(**settings)))
            return made[-1]

        yield Proxied(make).start()
        print(*(pod.logs() for pod in made))


@pytest.mark.timeout(7200)
def test_streams_live_through_any_number_of_kills(proxied: Proxied, stream_kills: int, chaos_seed: int) -> None:
    print(f"--stream-kills {stream_kills} --chaos-seed {chaos_seed}")
    source = random.Random(f"streams {chaos_seed}")
    reference = Reference()
    check_all = _checker(reference)
    clients: list[StreamClient] = []
    number = done = 0
    for kill in range(stream_kills):
        clients, over = _split(clients)
        done += check_all(over)
        while len(clients) < STREAMS:
            number += 1
            clients.append(
                proxied.stream(
                    prompt(source.randrange(1, 300), number),
                    source.choice([1, 2, 17, 60, 200]),
                    stream=source.choice([True, True, True, False]),
                    return_token_ids=source.choice([True, None]),
                )
            )
        _kill(proxied, clients, source, kill)
    proxied.keep_engine_until(clients)
    done += check_all(clients)
    assert done == number
    print(f"{done} answers, {stream_kills} kills")


def _kill(proxied: Proxied, clients: list[StreamClient], source: random.Random, kill: int) -> None:
    """In turns: after very few tokens (or none), while the engine starts, and when everybody has got on.

    Three deaths at which a request stood still are what poison looks like.
    """
    engine = proxied.engine
    if kill % 3 == 1:
        engine.start(wait=False)
        if source.random() < 0.5:
            until("the engine to attach", lambda: proxied.pod.sidecar.engines(), KILL_S)
        engine.kill()
        return
    if not engine.is_running:
        engine.start()
    before = {client: len(client.text) for client in clients}
    more = source.choice([0, 1, 8, 60]) if kill % 3 == 0 else STILL + source.choice([0, 5, 40])

    def has_come() -> bool:
        new = {client: len(client.text) - count for client, count in before.items() if not client.is_over}
        if kill % 3 == 0:
            return sum(new.values()) >= more or not new
        return all(client.body["stream"] and count >= more for client, count in new.items())

    until("the moment for the kill", has_come, 60.0)
    engine.kill()


def _split(clients: list[StreamClient]) -> tuple[list[StreamClient], list[StreamClient]]:
    over = [client for client in clients if client.is_over]
    return [client for client in clients if client not in over], over


def _checker(reference: Reference) -> Callable[[list[StreamClient]], int]:
    def check(clients: list[StreamClient]) -> int:
        for client in clients:
            client.finished()
            want = bytes(reference.tokens(client.body["prompt"], client.body["max_tokens"])).decode()
            text = client.text or client.answer["choices"][0]["text"]
            assert text == want, f"request {client.body}"
            if client.tokens:
                assert bytes(client.tokens).decode() == want
        return len(clients)

    return check
