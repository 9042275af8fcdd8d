"""The halves of one engine that have said hello: its leader and its ranks, and what they tell together.

Runs on the keeper's event loop. Owned by the engine, which says when they are let go of.
"""

from __future__ import annotations

from rekindle_plugins.contract.errors import ProtocolError
from rekindle_plugins.contract.identity import Identity
from rekindle_plugins.contract.journal import Heartbeat

from rekindle.keeper.attachment import (
    Hello,
    LeaderAttachment,
    RankAttachment,
    check_together,
    page_geometry,
    with_layout,
)
from rekindle.keeper.peer import Peer
from rekindle.store.layout import PageGeometry


class Halves:
    """`close` lets go of what they brought; nothing may be asked of them after that but who they were."""

    def __init__(self, hello: Hello) -> None:
        self.leader: LeaderAttachment | None = None
        self.ranks: dict[int, RankAttachment] = {}
        self._hello = hello
        self._is_closed = False

    @property
    def are_complete(self) -> bool:
        return self.leader is not None and len(self.ranks) == self._hello.world_size

    @property
    def peers(self) -> list[Peer]:
        leader = [self.leader.peer] if self.leader is not None else []
        return leader + [rank.peer for rank in self.ranks.values()]

    @property
    def identity_name(self) -> str:
        return self.leader.identity.digest.hex()[:12] if self.leader is not None else ""

    @property
    def page_count(self) -> int:
        return self.leader.page_count if self.leader is not None else 0

    @property
    def heartbeat(self) -> Heartbeat | None:
        """None before there is a leader, and after its journal was let go of."""
        return self.leader.journal.heartbeat() if self.leader is not None and not self._is_closed else None

    def add_leader(self, leader: LeaderAttachment) -> None:
        """Raises ProtocolError when there is one already, GeometryError when it does not fit the ranks."""
        if self.leader is not None:
            raise ProtocolError("attach", leader.peer.name, f"engine {self._hello.instance} has a leader already")
        check_together(leader, list(self.ranks.values()))
        self.leader = leader

    def add_rank(self, rank: RankAttachment) -> None:
        """Raises ProtocolError when it is taken or impossible, GeometryError when it does not fit the leader."""
        index, world_size = rank.region.rank, self._hello.world_size
        if index in self.ranks or not 0 <= index < world_size:
            raise ProtocolError("attach", rank.peer.name, f"rank {index} of {world_size} is taken or impossible")
        if self.leader is not None:
            check_together(self.leader, [rank])
        self.ranks[index] = rank

    def with_layout(self, identity: Identity) -> Identity:
        """With what only the ranks know. Raises IdentityError when there is no room for that."""
        return with_layout(identity, [rank.region for rank in self.ranks.values()])

    def page_geometry(self) -> PageGeometry:
        """What a slot must hold. There is a leader."""
        assert self.leader is not None
        return page_geometry(self.leader, [rank.region for rank in self.ranks.values()])

    def close(self) -> None:
        self._is_closed = True
        for rank in self.ranks.values():
            rank.close()
        if self.leader is not None:
            self.leader.close()
