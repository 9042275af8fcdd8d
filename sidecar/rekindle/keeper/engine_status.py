"""What one engine's runtime tells of itself, as the frozen values that admin and metrics show."""

from __future__ import annotations

from rekindle.keeper.checkpoint import Checkpoint
from rekindle.keeper.tally import Tally
from rekindle.lifecycle.status import PageCounters


def page_counters(tally: Tally, checkpoint: Checkpoint | None) -> PageCounters:
    return PageCounters(
        live=checkpoint.live if checkpoint is not None else 0,
        checkpointed=tally.checkpointed,
        pending=checkpoint.pending if checkpoint is not None else 0,
        lost_to_overwrite=tally.lost_to_overwrite,
        lost_in_journal=tally.lost_in_journal,
        already_stored=tally.already_stored,
        restored=tally.restored,
        rejected=dict(tally.rejected),
    )
