"""Salvage: reading committed pages out of a dead engine's memory, within a budget, before it is let go of.

Runs on the keeper's event loop. The dead engine's memory lives on only through the copiers' mappings.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from rekindle.keeper.checkpoint import Checkpoint
from rekindle.store.catalog import Catalog

log = logging.getLogger("rekindle.engine")

COPIER_START_S = 2.0
"""What a salvage waits for a copier that is just starting, before its budget begins to run."""
FINAL_BUDGET_S = 5.0
"""Instead of the budget when the sidecar itself is told to stop: no fresh engine waits for the memory then."""
_TURN_S = 0.001


async def salvage(
    checkpoint: Checkpoint, catalog: Catalog | None, lost_at: float, budget_s: Callable[[], float]
) -> int:
    """Saves what can be saved. Returns the pages that were left behind.

    A cache that the engine reset before it died is void, and so is what `catalog` has of it. `budget_s` is asked each
    time: a stop of the sidecar on the way makes it longer.
    """
    checkpoint.begin_salvage()
    unsaved = await _copy_rest(checkpoint, lost_at, budget_s)
    if catalog is not None and checkpoint.is_void:
        log.warning("event=cache_reset instance=%s at=death", checkpoint.instance)
        catalog.clear()
    return unsaved


async def _copy_rest(checkpoint: Checkpoint, lost_at: float, budget_s: Callable[[], float]) -> int:
    """Pumps journal and copiers until all is copied or the budget is spent.

    The budget is for copying: an engine that dies while its copier is still starting loses nothing by that. Ends at
    once when the generation moves (the engine lived on and reset its cache): nothing of it counts any more.
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
