"""A shim whose engine computes a number of steps and then waits to be killed, so that a kill is in the middle."""

from __future__ import annotations

import argparse
import os
import threading

from rekindle_plugins.nano.shim import NanoShim

STEP_S = 0.01
"""How long a step takes at least: neither requests that are late nor loads use up the number, or an answer."""


class WaitingShim(NanoShim):
    """It waits when WAITS_AFTER steps with WAITS_FOR requests or more have begun. Only the engine thread waits."""

    steps_left = requests = 0

    def step_begins(self, running: int, waiting: int) -> None:
        super().step_begins(running, waiting)
        if running:
            self.steps_left -= running >= self.requests
            threading.Event().wait(STEP_S if self.steps_left >= 0 else None)


def connect(_: argparse.Namespace) -> WaitingShim:
    shim = WaitingShim(os.environ["REKINDLE_RUN_DIR"])
    shim.steps_left, shim.requests = int(os.environ["WAITS_AFTER"]), int(os.environ["WAITS_FOR"])
    return shim
