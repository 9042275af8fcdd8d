"""Whether the sidecar checkpoints, and takes engines: an operator's pause and drain. Lasts until the sidecar ends."""

from __future__ import annotations

import enum
import logging

from rekindle_plugins.contract.errors import UnavailableError

log = logging.getLogger("rekindle.keeper")


class Mode(enum.Enum):
    SERVING = "serving"
    PAUSED = "paused"
    """Nothing is checkpointed. Restores go on, and a dying engine is still salvaged."""
    DRAINING = "draining"
    """No further engine is taken; those attached are checkpointed on."""


class Gate:
    """One for the whole sidecar, asked wherever the mode matters."""

    def __init__(self) -> None:
        self.mode = Mode.SERVING

    def set(self, mode: Mode) -> None:
        if mode is not self.mode:
            log.warning("event=mode from=%s to=%s", self.mode.value, mode.value)
        self.mode = mode

    @property
    def is_open(self) -> bool:
        """Whether committed pages are to be copied."""
        return self.mode is not Mode.PAUSED

    def check_admission(self, peer: str) -> None:
        """Raises UnavailableError when no engine is to be taken."""
        if self.mode is Mode.DRAINING:
            raise UnavailableError(
                "attach", peer, "the sidecar is draining", "it takes engines after `rekindle resume`"
            )
