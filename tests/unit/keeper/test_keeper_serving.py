"""What engines tell of their servers is handed on while they are attached."""

from __future__ import annotations

from collections.abc import Sequence

from rekindle.keeper.serving import Serving, Told


def test_a_listener_hears_of_all_that_are_attached_and_of_every_change() -> None:
    serving = Serving()
    one, other = Told("vllm", {"a": 1}), Told("nano", None)
    serving.came("1", one)
    heard: list[Sequence[Told]] = []
    serving.tell(heard.append)
    serving.came("2", other)
    serving.went("1")
    serving.went("unknown")
    serving.went("2")
    assert heard == [(one,), (one, other), (other,), ()]
