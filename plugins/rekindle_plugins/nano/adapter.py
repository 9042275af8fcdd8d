"""The nano engine's adapter."""

from __future__ import annotations

from typing import ClassVar

from rekindle_plugins.contract.adapter import Adapter, Launch, Wired, is_wired_script, refuse_shell
from rekindle_plugins.contract.dialect import Dialect
from rekindle_plugins.contract.listening import Listening, ServerFlags
from rekindle_plugins.contract.plugin import PluginInfo
from rekindle_plugins.nano.dialect import NanoDialect
from rekindle_plugins.nano.plugin import INFO

FLAG = "--plugin"
FACTORY = "rekindle_plugins.nano:connect"
SERVER = ServerFlags(port=8000, host="127.0.0.1", is_argparse=True)


class NanoAdapter(Adapter):
    """`python -m nano_engine …`."""

    info: ClassVar[PluginInfo] = INFO
    driver: ClassVar[str] = "rekindle_plugins.nano.driver:NanoDriver"

    def recognises(self, launch: Launch) -> bool:
        return "nano_engine" in launch.words or (launch.is_shell and any("nano_engine" in w for w in launch.words))

    def wire(self, launch: Launch) -> Wired:
        if is_wired_script(launch, FACTORY):
            return Wired(launch, "the nano engine's script has the plugin already")
        refuse_shell(launch, self.info, self.flags())
        if any(word == FLAG or word.startswith(f"{FLAG}=") for word in launch.words):
            return Wired(launch, f"the nano engine keeps the {FLAG} it was given")
        return Wired(launch.with_args(*self.flags()), f"the nano engine gets {FLAG} {FACTORY}")

    def flags(self) -> tuple[str, ...]:
        return (FLAG, FACTORY)

    def listens(self, launch: Launch) -> Listening:
        return SERVER.listening(launch)

    def moved(self, launch: Launch, port: int) -> Launch:
        return SERVER.moved(launch, port)

    def dialect(self) -> Dialect:
        return NanoDialect()
