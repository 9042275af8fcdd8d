"""The adapter: the half that runs in the sidecar. It knows the engine's command line, and touches no page."""

from __future__ import annotations

from typing import ClassVar

from rekindle_plugins.contract import Adapter, Launch, PluginInfo, Wired
from rekindle_plugins.contract.adapter import refuse_shell

from rekindle_myengine.plugin import INFO

FLAG = "--plugin"
FACTORY = "rekindle_myengine.shim:connect"


class MyEngineAdapter(Adapter):
    """`myengine …`, or `python -m myengine …`."""

    info: ClassVar[PluginInfo] = INFO

    def recognises(self, launch: Launch) -> bool:
        return any(word == "myengine" or word.endswith("/myengine") for word in launch.words)

    def wire(self, launch: Launch) -> Wired:
        refuse_shell(launch, self.info, self.flags())
        if FLAG in launch.words:
            return Wired(launch, f"it keeps the {FLAG} it was given")
        return Wired(launch.with_args(*self.flags()), f"it gets {FLAG} {FACTORY}")

    def flags(self) -> tuple[str, ...]:
        return (FLAG, FACTORY)
