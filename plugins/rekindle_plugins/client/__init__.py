"""What every shim needs: the leader's and the ranks' side of the attach protocol. Stdlib only."""

from rekindle_plugins.client.eager import EagerTarget, restore_eagerly
from rekindle_plugins.client.leader import Fill, FillPage, FillResult, Leader, LeaderConfig, PlannedPage
from rekindle_plugins.client.rank import Rank, RankConfig
from rekindle_plugins.client.shim import Shim

__all__ = [
    "EagerTarget",
    "Fill",
    "FillPage",
    "FillResult",
    "Leader",
    "LeaderConfig",
    "PlannedPage",
    "Rank",
    "RankConfig",
    "Shim",
    "restore_eagerly",
]
