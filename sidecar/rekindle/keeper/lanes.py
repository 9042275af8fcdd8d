"""The lanes of one engine on one store: a copier for every rank, and the transfers that go through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rekindle.copier.memory import ArenaPart
from rekindle.keeper.attachment import LeaderAttachment, RankAttachment
from rekindle.keeper.checkpoint import Checkpoint
from rekindle.keeper.lane import Lane, LaneSpec
from rekindle.keeper.stores import OpenStore
from rekindle.keeper.tally import Tally
from rekindle.keeper.transfers import Transfers


def open_lanes(
    leader: LeaderAttachment,
    ranks: Mapping[int, RankAttachment],
    store: OpenStore,
    lock_fd: int,
    checkpoint: Checkpoint,
    tally: Tally,
    answer: Callable[[int, list[tuple[int, str]]], None],
    on_crash: Callable[[str], None],
    *,
    timeout_s: float,
    bandwidth: int,
) -> None:
    """Starts a copier for each rank and lets `checkpoint` save through them. `lock_fd`: the store's, see `LaneSpec`."""
    geometry = store.arena.geometry
    group_bytes = [
        sum(rank.region.groups[group].part_bytes for rank in ranks.values())
        for group in range(len(leader.group_tokens))
    ]
    transfers = checkpoint.transfers = Transfers(store.catalog, group_bytes, tally, answer, wake=checkpoint.pump_soon)
    for rank in sorted(ranks):
        part = ArenaPart(
            geometry.slot_offset(0, rank), geometry.page.slot_bytes, geometry.page.rank_bytes, geometry.slot_count
        )
        region, buffers = ranks[rank].region, ranks[rank].fds
        spec = LaneSpec(region, buffers, store.arena.fd, part, leader.fence.fd, lock_fd, bandwidth)

        def on_rows(rows: Any, rank: int = rank) -> None:
            transfers.take_rows(rank, rows)
            checkpoint.after_rows()

        def on_lifeline(fds: list[int], sent: Callable[[], None], rank: int = rank) -> None:
            leader.peer.send("copier", fds, then=sent, rank=rank)

        lane = Lane(spec, timeout_s, on_rows, on_lifeline, on_crash, tally.copiers[rank])
        transfers.lanes.append(lane)
