"""What one engine's runtime tells of itself, as the frozen values that admin and metrics show."""

from __future__ import annotations

from rekindle.keeper.tally import Tally
from rekindle.lifecycle.status import PageCounters


def page_counters(tally: Tally, live: int, pending: int) -> PageCounters:
    return PageCounters(
        live=live,
        checkpointed=tally.checkpointed,
        pending=pending,
        lost_to_overwrite=tally.lost_to_overwrite,
        lost_in_journal=tally.lost_in_journal,
        already_stored=tally.already_stored,
        restored=tally.restored,
        rejected=dict(tally.rejected),
    )
