"""What the admin API, HTTP and metrics need of the keeper: its status, and what an operator may do with it."""

from __future__ import annotations

from typing import Protocol

from rekindle.keeper.operator import Operator
from rekindle.lifecycle.status import KeeperStatus


class StatusSource(Protocol):
    """The keeper, or a stand-in. ``status`` is called on the event loop and must not block."""

    def status(self) -> KeeperStatus:
        """What the keeper knows now, as plain values."""
        ...


class AdminSource(StatusSource, Protocol):
    """The keeper, for the verbs that change something or look into the store."""

    @property
    def operator(self) -> Operator:
        """Raises UnavailableError while the keeper is starting or stopping."""
        ...
