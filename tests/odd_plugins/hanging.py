"""A shim whose engine hangs within a step, before it computes: at a FIFO that nobody writes to, while there is one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from nano_engine.blocks import PageId
from rekindle_plugins.nano.shim import NanoShim


class HangingShim(NanoShim):
    """The FIFO is named by HANGS_AT. Everything else of the process goes on: it is the engine thread that hangs."""

    def pages_allocated(self, page_ids: Sequence[PageId]) -> None:
        super().pages_allocated(page_ids)
        fifo = Path(os.environ["HANGS_AT"])
        if fifo.exists():
            fifo.read_bytes()


def connect(_: argparse.Namespace) -> HangingShim:
    return HangingShim(os.environ["REKINDLE_RUN_DIR"])
