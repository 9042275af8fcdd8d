"""The rank: the half of a shim that runs in a process which owns KV-cache memory. It hands the memory over, no more."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.client.link import Link
from rekindle_plugins.contract.errors import ProtocolError
from rekindle_plugins.contract.geometry import Region
from rekindle_plugins.contract.plugin import PluginInfo
from rekindle_plugins.contract.wire import Message, duplicate


@dataclass(frozen=True)
class RankConfig:
    attach_path: str
    instance: str
    plugin: PluginInfo
    engine_version: str
    world_size: int
    handshake_timeout_s: float = 2.0


class Rank:
    """Keeps one region attached for as long as the engine lives."""

    def __init__(self, config: RankConfig, region: Region, fds: Sequence[int], log: logging.Logger) -> None:
        """`fds` are its buffers, in the region's order. They stay the caller's, who may close them: we keep duplicates.

        Raises GeometryError when the region contradicts itself.
        """
        region.validate()
        self.config = config
        self.region = region
        self._fds = duplicate(fds)
        self.link = Link(
            config.attach_path,
            f"rank-{region.rank}",
            self._hello,
            self._on_message,
            lambda: None,
            lambda: None,
            log,
            config.handshake_timeout_s,
        )

    def start(self) -> None:
        self.link.start()

    def close(self) -> None:
        """Hangs up. The engine's memory is not touched."""
        if self.link.close():
            fds, self._fds = self._fds, ()
            Message("", {}, fds).close_fds()

    def _hello(self) -> tuple[dict[str, Any], Sequence[int]]:
        config = self.config
        fields = {
            "role": "rank",
            "instance": config.instance,
            "plugin": config.plugin.to_json(),
            "engine_version": config.engine_version,
            "world_size": config.world_size,
            "region": self.region.to_json(),
        }
        return fields, self._fds

    def _on_message(self, message: Message) -> None:
        message.close_fds()
        if message.type != "welcome":
            raise ProtocolError("receive", f"{message.type} from the sidecar", "a rank expects nothing")
