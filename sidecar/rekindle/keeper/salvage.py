"""Salvage: reading committed pages out of a dead engine's memory, within a budget, before it is let go of.

Runs on the keeper's event loop. The dead engine's memory lives on only through the copiers' mappings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from rekindle.keeper.attachment import LeaderAttachment
from rekindle.keeper.transfers import Transfers

COPIER_START_S = 2.0
"""What a salvage waits for a copier that is just starting, before its budget begins to run."""
_TURN_S = 0.001


async def salvage(
    leader: LeaderAttachment,
    transfers: Transfers,
    generation: int,
    lost_at: float,
    budget_s: float,
    pump: Callable[[], None],
) -> int:
    """Pumps journal and copiers until all is copied or the budget is spent. Returns the pages that were left behind.

    The budget is for copying: an engine that dies while its copier is still starting loses nothing by that. Ends at
    once when the generation moves (the engine lived on and reset its cache): nothing of it counts any more.
    """
    deadline = lost_at + budget_s
    latest = deadline + COPIER_START_S
    while time.monotonic() < deadline and leader.journal.generation == generation:
        pump()
        if not transfers.saving and not leader.journal.pending:
            break
        if not all(lane.is_ready for lane in transfers.lanes):
            deadline = min(latest, time.monotonic() + budget_s)
        await asyncio.sleep(_TURN_S)
    return transfers.saving + leader.journal.pending
