"""A shim whose engine dies of restored pages: in its first step of work after a restore, while a file is there."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from rekindle_plugins.nano.shim import NanoShim


class DyingShim(NanoShim):
    """The file is named by DIES_WHILE."""

    def step_begins(self, running: int, waiting: int) -> None:
        super().step_begins(running, waiting)
        was_restored = self._eager is not None and self._eager.restored > 0
        if (running or waiting) and was_restored and Path(os.environ["DIES_WHILE"]).exists():
            os.kill(os.getpid(), signal.SIGKILL)


def connect(_: argparse.Namespace) -> DyingShim:
    return DyingShim(os.environ["REKINDLE_RUN_DIR"])
