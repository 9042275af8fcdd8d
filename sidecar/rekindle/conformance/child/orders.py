"""What the kit wants to happen in the child: to die, or to fail, at an exact place; another host, a smaller journal.

A place is a call of the client library, counted from one: `commit` 3 is the third page that is committed. The child
dies after the call has done its work, by a SIGKILL to itself, so that no later instruction of the engine is run.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Any

PLACES = ("initialized", "attached", "raise_pages", "commit", "end_step", "fill", "adopt")


class InjectedError(RuntimeError):
    """What an order to fail raises inside the shim: an error that no shim can have expected."""


@dataclass(frozen=True)
class Place:
    """The `count`-th call of `call`."""

    call: str
    count: int

    @staticmethod
    def from_json(data: Any) -> Place | None:
        return None if data is None else Place(str(data["call"]), int(data["count"]))


@dataclass(frozen=True)
class Orders:
    """The kit's orders for one child."""

    die_at: Place | None = None
    fail_at: Place | None = None
    journal_records: int | None = None
    host_version: tuple[int, int] | None = None

    @staticmethod
    def from_json(data: dict[str, Any]) -> Orders:
        host = data.get("host_version")
        return Orders(
            Place.from_json(data.get("die_at")),
            Place.from_json(data.get("fail_at")),
            data.get("journal_records"),
            (int(host[0]), int(host[1])) if host else None,
        )


class Turns:
    """Counts the calls and carries out what was ordered for them."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._begun: Counter[str] = Counter()
        self._done: Counter[str] = Counter()

    def before(self, call: str) -> None:
        """Raises InjectedError where the order says so."""
        self._begun[call] += 1
        if Place(call, self._begun[call]) == self._orders.fail_at:
            raise InjectedError(f"call {self._begun[call]} of {call}, broken by the conformance kit")

    def after(self, call: str) -> None:
        self._done[call] += 1
        if Place(call, self._done[call]) == self._orders.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
