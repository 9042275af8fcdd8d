"""Salvage: reading committed pages out of a dead engine's memory, within a budget, before it is let go of.

Runs on the keeper's event loop. The dead engine's memory lives on only through the copiers' mappings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from rekindle.keeper.checkpoint import Checkpoint

COPIER_START_S = 2.0
"""What a salvage waits for a copier that is just starting, before its budget begins to run."""
FINAL_BUDGET_S = 5.0
"""Instead of the budget when the sidecar itself is told to stop: no fresh engine waits for the memory then."""
_TURN_S = 0.001


async def salvage(checkpoint: Checkpoint, lost_at: float, budget_s: Callable[[], float]) -> int:
    """Pumps journal and copiers until all is copied or the budget is spent. Returns the pages that were left behind.

    The budget is for copying: an engine that dies while its copier is still starting loses nothing by that. Ends at
    once when the generation moves (the engine lived on and reset its cache): nothing of it counts any more. `budget_s`
    is asked each time: a stop of the sidecar on the way makes it longer.
    """
    transfers = checkpoint.transfers
    if transfers is None:
        return 0
    began = lost_at
    latest_begin = lost_at + COPIER_START_S
    while time.monotonic() < began + budget_s() and not checkpoint.is_void:
        checkpoint.pump()
        if not checkpoint.pending:
            break
        if not all(lane.is_ready for lane in transfers.lanes):
            began = min(latest_begin, time.monotonic())
        await asyncio.sleep(_TURN_S)
    return checkpoint.pending
