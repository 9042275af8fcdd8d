"""What one engine's runtime tells of itself, as the frozen values that admin and metrics show."""

from __future__ import annotations

import time

from rekindle_plugins.contract.journal import Heartbeat

from rekindle.keeper.attachment import Hello, LeaderAttachment
from rekindle.keeper.checkpoint import Checkpoint
from rekindle.keeper.hang_watch import HangWatch
from rekindle.keeper.tally import Tally
from rekindle.lifecycle.machine import State
from rekindle.lifecycle.status import EngineStatus, PageCounters


def engine_status(
    hello: Hello,
    state: State,
    leader: LeaderAttachment | None,
    checkpoint: Checkpoint | None,
    watch: HangWatch | None,
    tally: Tally,
    *,
    ranks_attached: int,
    identity: str,
    attached_s: float,
    note: str,
) -> EngineStatus:
    """`leader` and `checkpoint`: None while there is none, and once they were let go of."""
    beat = leader.journal.heartbeat() if leader is not None else None
    plugin = hello.plugin
    return EngineStatus(
        instance=hello.instance,
        backend=plugin.name,
        plugin_version=plugin.version,
        api_version="{}.{}".format(*plugin.api_version),
        capabilities=tuple(sorted(capability.value for capability in plugin.capabilities)),
        engine_version=hello.engine_version,
        state=state.value,
        world_size=hello.world_size,
        ranks_attached=ranks_attached,
        identity=identity,
        attached_s=attached_s,
        page_count=leader.page_count if leader is not None else 0,
        pages=page_counters(tally, checkpoint),
        steps=beat.steps_finished if beat else 0,
        outstanding=beat.outstanding if beat else 0,
        shim_us_per_step=beat.shim_ns / 1000 / beat.steps_finished if beat and beat.steps_finished else 0.0,
        note=(watch.text if watch is not None else "") or note,
        hung_s=watch.hung_s if watch is not None else None,
        pid=leader.peer.pid if leader is not None else 0,
        step_age_s=step_age_s(beat),
    )


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
    if beat is None or not beat.has_work or not beat.last_sign_ns:
        return None
    return max(0, time.monotonic_ns() - beat.last_sign_ns) / 1e9
