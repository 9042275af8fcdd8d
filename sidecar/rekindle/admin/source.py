"""What the admin API, HTTP and metrics need of the keeper: somebody who can tell its status."""

from __future__ import annotations

from typing import Protocol

from rekindle.lifecycle.status import KeeperStatus


class StatusSource(Protocol):
    """The keeper, or a stand-in. ``status`` is called on the event loop and must not block."""

    def status(self) -> KeeperStatus:
        """What the keeper knows now, as plain values."""
        ...
