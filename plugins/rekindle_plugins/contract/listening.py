"""Where an engine's HTTP server listens, read from its command line, and the same command line with another port.

For adapters whose engine has a flag for it, which is nearly every one. A container's arguments may name variables as
`$(NAME)`; Kubernetes puts their values in. Whatever is not certain raises: a port that was guessed would leave a
service without its engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rekindle_plugins.contract.errors import ConfigError

if TYPE_CHECKING:
    from rekindle_plugins.contract.adapter import Launch

_VARIABLE = re.compile(r"\$\(([A-Za-z_.][\w.-]*)\)")


@dataclass(frozen=True)
class Listening:
    """`host` as the engine has it: an address or name, "" for all addresses."""

    host: str
    port: int
    is_told: bool = True
    """Whether the launch says the port itself. Else it is the engine's default, which an image may have changed."""


@dataclass(frozen=True)
class ServerFlags:
    """An engine's flags, with their defaults. The last one given counts, as `--flag value` and as `--flag=value`."""

    port: int
    host: str = ""
    port_flag: str = "--port"
    host_flag: str = "--host"
    spelled: Callable[[str], str] = str
    """A flag as somebody wrote it, in the spelling of `port_flag`: for engines that take several."""
    is_argparse: bool = False
    """Whether a flag may be cut short, as Python's argparse has it."""

    def listening(self, launch: Launch) -> Listening:
        """Raises ConfigError where a value is not known here."""
        host, port = self._value(launch, self.host_flag), self._value(launch, self.port_flag)
        if port is None:
            return Listening(self.host if host is None else host, self.port, is_told=False)
        if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError("read", f"flag {self.port_flag}", f"{port!r:.40} is no port", "give it a number")
        return Listening(self.host if host is None else host, int(port))

    def moved(self, launch: Launch, port: int) -> Launch:
        """The launch with its server on another port."""
        index = self._index(launch.words, self.port_flag)
        if index is None:
            return launch.with_args(self.port_flag, str(port))
        words = list(launch.words)
        flag, equals, _ = words[index].partition("=")
        words[index] = f"{flag}={port}" if equals else str(port)
        split = len(launch.command)
        return replace(launch, command=tuple(words[:split]), args=tuple(words[split:]))

    def _index(self, words: Sequence[str], flag: str) -> int | None:
        """Of the word that has the flag's value; None where the flag is not given."""
        for index in range(len(words) - 1, -1, -1):
            name, equals, _ = words[index].partition("=")
            if name.startswith("-") and self._is(self.spelled(name), flag):
                if equals:
                    return index
                if index + 1 == len(words):
                    raise ConfigError("read", f"flag {flag}", "it has no value")
                return index + 1
        return None

    def _is(self, name: str, flag: str) -> bool:
        return name == flag or (self.is_argparse and len(name) > len("--x") and flag.startswith(name))

    def _value(self, launch: Launch, flag: str) -> str | None:
        index = self._index(launch.words, flag)
        if index is None:
            return None
        word = launch.words[index]
        given = word.partition("=")[2] if word.startswith("-") else word

        def known(match: re.Match[str]) -> str:
            value = launch.environment.get(match[1], "")
            if not value or _VARIABLE.search(value):
                problem = f"its value comes from the variable {match[1]}, which the manifest does not say"
                raise ConfigError("read", f"flag {flag}", problem, "write the value")
            return value

        return _VARIABLE.sub(known, given)
