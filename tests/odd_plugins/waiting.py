"""A shim whose engine computes a number of steps and then waits, so that what a test does is in the middle.

It waits to be killed, or for a file.
"""

from __future__ import annotations

import argparse
import os
import threading

from rekindle_plugins.nano.shim import NanoShim

STEP_S = 0.01
"""How long a step takes at least: neither requests that are late nor loads use up the number, or an answer."""


class WaitingShim(NanoShim):
    """It waits when WAITS_AFTER steps with WAITS_FOR requests or more have begun, until the file WAITS_UNTIL is there.
    Only the engine thread waits."""

    steps_left = requests = 0
    file = ""

    def step_begins(self, running: int, waiting: int) -> None:
        super().step_begins(running, waiting)
        if running:
            self.steps_left -= running >= self.requests
            threading.Event().wait(STEP_S)
            while self.steps_left < 0 and not os.path.exists(self.file):
                threading.Event().wait(STEP_S)


def connect(_: argparse.Namespace) -> WaitingShim:
    shim = WaitingShim(os.environ["REKINDLE_RUN_DIR"])
    shim.steps_left, shim.requests = int(os.environ["WAITS_AFTER"]), int(os.environ["WAITS_FOR"])
    shim.file = os.environ.get("WAITS_UNTIL", "")
    return shim
