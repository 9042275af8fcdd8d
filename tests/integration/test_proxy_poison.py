"""A request that kills every engine it comes to: it takes down nobody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Pod, Proxied, Reference, poisoned_engine
from driving.reference import prompt


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
