"""The adapter: knows the command of `lines_engine.py`. Runs in the sidecar; imports nothing of transformers.

transformers has no server whose command line could load a shim, so an operator's own program takes the place of
`lines_engine.py`. All it must do is to call `rekindle_transformers.protect(manager)` when it is told to.
"""

from __future__ import annotations

import os
from typing import ClassVar

from rekindle_plugins.contract.adapter import Adapter, Launch, Wired, refuse_shell
from rekindle_plugins.contract.plugin import PluginInfo

from rekindle_transformers.plugin import INFO

PROGRAM = "lines_engine.py"
FLAG = "--plugin"
FACTORY = "rekindle_transformers:protect"


class TransformersAdapter(Adapter):
    """`python …/lines_engine.py …`."""

    info: ClassVar[PluginInfo] = INFO
    serves_until_stopped: ClassVar[bool] = False
    driver: ClassVar[str] = "rekindle_transformers.driver:TransformersDriver"

    def recognises(self, launch: Launch) -> bool:
        if launch.is_shell:
            return any(PROGRAM in word for word in launch.words)
        return any(os.path.basename(word) == PROGRAM for word in launch.words)

    def wire(self, launch: Launch) -> Wired:
        refuse_shell(launch, self.info, self.flags())
        if any(word == FLAG or word.startswith(f"{FLAG}=") for word in launch.words):
            return Wired(launch, f"the engine keeps the {FLAG} it was given")
        return Wired(launch.with_args(*self.flags()), f"the engine gets {FLAG} {FACTORY}")

    def flags(self) -> tuple[str, ...]:
        return (FLAG, FACTORY)
