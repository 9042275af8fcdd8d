"""What one engine's runtime tells of itself, as the frozen values that admin and metrics show."""

from __future__ import annotations

import time

from rekindle_plugins.contract.journal import Heartbeat

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
        lag_s=checkpoint.lag_s if checkpoint is not None else 0.0,
    )


def step_age_s(beat: Heartbeat | None) -> float | None:
    """Since a step last began or ended. None while there is nothing to do: an idle engine takes no steps."""
    if beat is None or not beat.outstanding or not beat.last_sign_ns:
        return None
    return max(0, time.monotonic_ns() - beat.last_sign_ns) / 1e9
