"""A request that kills every engine it comes to takes down nobody else, and who only was there is not taken for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from driving import Pod, Proxied, Reference, StreamClient, poisoned_engine, until
from driving.reference import prompt

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("streams", [True, False])
def test_a_poison_request_is_found_and_everybody_else_goes_on(
    make_pod: Callable[..., Pod], reference: Reference, streams: bool
) -> None:
    proxied = Proxied(make_pod)
    proxied.engine.program = (str(Path(poisoned_engine.__file__)),)
    proxied.start()
    clients = [proxied.stream(prompt(60 + 10 * index, index), 150) for index in range(6)]
    for client in clients:
        client.when(10)
    poison = proxied.stream("before " + poisoned_engine.MAGIC.decode(), 20, stream=streams)
    starts = proxied.keep_engine_until([*clients, poison])
    assert poison.error["type"] == "rekindle_poison_request"
    assert "died 3 times" in poison.error["message"]
    assert starts == 3
    for client in clients:
        client.finished()
        want = reference.tokens(client.body["prompt"], 150)
        assert client.text == bytes(want).decode()
    later = proxied.stream(prompt(30), 10).finished()
    assert later.text == bytes(reference.tokens(prompt(30), 10)).decode()


def _have(counts: dict[StreamClient, int]) -> bool:
    return all(client.is_over or len(client.text) >= count for client, count in counts.items())


def test_engines_killed_from_outside_in_quick_succession_make_nobody_a_poison_request(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    source = random.Random("outside")
    proxied = Proxied(make_pod).start()
    clients = [proxied.stream(prompt(40 + 10 * index, index), 400) for index in range(4)]
    for client in clients:
        client.when(1)
    for _ in range(4):
        proxied.engine.restart()
        seen = {client: len(client.text) + source.choice([1, 1, 3]) for client in clients}
        until("all to get on a little", partial(_have, seen), 60.0)
    for client in clients:
        client.finished()
        assert client.text == bytes(reference.tokens(client.body["prompt"], 400)).decode()
