"""The shim: what every half of a plugin that lives in an engine's process has in common.

An engine may have several: one beside its scheduler (it owns a `Leader`), one in each worker (a `Rank`), or one that is
both. How the engine calls it between `attach` and `finalize` is the engine's own interface, not ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from rekindle_plugins.contract.plugin import PluginInfo, Stages

HOST = "rekindle_plugins in the engine's process"


class Shim(ABC):
    """Base of all shims. A subclass enters each stage of `stages` before it does what belongs to it."""

    info: ClassVar[PluginInfo]

    def __init__(self) -> None:
        """Raises VersionError where the plugin was written for another contract than the one beside it."""
        self.info.check(HOST)
        self.stages = Stages(f"shim of {self.info.name}")

    @abstractmethod
    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Takes the engine's configuration and decides whether it can be protected. The sidecar is not talked to.

        Raises whatever says best why not; the engine then runs as without Rekindle.
        """

    @abstractmethod
    def attach(self, *args: Any, **kwargs: Any) -> None:
        """The memory or the scheduler is there: begins to attach, and restores eagerly where the engine can.

        Returns within its budgets, whatever the sidecar does.
        """

    @abstractmethod
    def finalize(self) -> None:
        """The engine stops. Not called when it is killed."""
