"""Salvage: reading committed pages out of a dead engine's memory, within a budget, before it is let go of.

Runs on the keeper's event loop. The dead engine's memory lives on only through the copiers' mappings.
"""

from __future__ import annotations

import asyncio
import time

from rekindle.keeper.checkpoint import Checkpoint

COPIER_START_S = 2.0
"""What a salvage waits for a copier that is just starting, before its budget begins to run."""
_TURN_S = 0.001


async def salvage(checkpoint: Checkpoint, lost_at: float, budget_s: float) -> int:
    """Pumps journal and copiers until all is copied or the budget is spent. Returns the pages that were left behind.

    The budget is for copying: an engine that dies while its copier is still starting loses nothing by that. Ends at
    once when the generation moves (the engine lived on and reset its cache): nothing of it counts any more.
    """
    transfers = checkpoint.transfers
    if transfers is None:
        return 0
    deadline = lost_at + budget_s
    latest = deadline + COPIER_START_S
    while time.monotonic() < deadline and not checkpoint.is_void:
        checkpoint.pump()
        if not checkpoint.pending:
            break
        if not all(lane.is_ready for lane in transfers.lanes):
            deadline = min(latest, time.monotonic() + budget_s)
        await asyncio.sleep(_TURN_S)
    return checkpoint.pending
