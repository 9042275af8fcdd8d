"""The adapter: the half of a plugin that runs inside the sidecar (and in `rekindle run`, `inject` and `plugin`).

It holds no page and no state of an engine; it answers questions about its kind of engine:

    recognises, wire    is this command or container one of mine, and what must be added so that the shim is loaded?
    listens, moved      where does its server listen, and how is it put on another port? (for the proxy before it)
    judge               may pages of that identity come back into this engine?
    health              where does the engine say whether it serves, and what does its answer mean?
    dialect             what must the stream proxy know to continue its answers? (contract.dialect)

Stdlib and contract only, so that it can be loaded anywhere. A method that fails fails alone: the engine concerned is
treated as one without an adapter, and `rekindle plugin list` says why.
"""

from __future__ import annotations

import enum
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from rekindle_plugins.contract.dialect import Dialect
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.contract.identity import Identity, Mismatch
from rekindle_plugins.contract.listening import Listening
from rekindle_plugins.contract.plugin import PluginInfo

RUN_DIR_VARIABLE = "REKINDLE_RUN_DIR"
PROXY_BY_HAND = (
    "inject without the proxy; then put the engine on a free port, its probes too, and give the container rekindle "
    "REKINDLE_PROXY=0.0.0.0:PORT=http://127.0.0.1:FREE_PORT"
)
SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "ksh"})


@dataclass(frozen=True)
class Launch:
    """How an engine is started: a process' command line, or a container's.

    A container may leave `command` empty: then its image's own entry point is run with `args`.
    """

    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    plugins_dir: str = ""
    """Where a container will have `rekindle_plugins`; "" where that is not known, or is where ours lies."""

    @property
    def words(self) -> tuple[str, ...]:
        """The whole command line."""
        return self.command + self.args

    @property
    def image_name(self) -> str:
        """The last part of the image's path, without registry, tag and digest."""
        return self.image.partition("@")[0].rpartition("/")[2].partition(":")[0]

    @property
    def is_shell(self) -> bool:
        """Whether a shell is given a script (`sh -c "…"`), which nobody can edit safely."""
        words = self.words
        flags = [word for word in words[1:] if word.startswith("-")]
        return bool(words) and os.path.basename(words[0]) in SHELLS and any("c" in flag.lstrip("-") for flag in flags)

    def with_args(self, *more: str) -> Launch:
        """At the end: of `args` where there are some, or where the command is the image's own."""
        if self.args or not self.command:
            return replace(self, args=self.args + more)
        return replace(self, command=self.command + more)

    def with_environment(self, **more: str) -> Launch:
        return replace(self, environment={**self.environment, **more})


@dataclass(frozen=True)
class Wired:
    """A launch with what the shim needs. `note`: what was done, or was there already, in one line."""

    launch: Launch
    note: str = ""


class Health(enum.Enum):
    """What an engine says of itself when it is asked."""

    STARTING = "starting"
    SERVING = "serving"
    FAILED = "failed"


class Adapter(ABC):
    """Base of all adapters. One object a backend and process; `initialize` comes first, `finalize` last, each once.

    What is not overridden does what is right for an engine with an HTTP server and nothing unusual.
    """

    info: ClassVar[PluginInfo]
    health_path: ClassVar[str] = "/health"
    """Where the engine's own server tells its health."""
    port: ClassVar[int] = 8000
    """Where that server listens when the command line does not say."""
    serves_until_stopped: ClassVar[bool] = True
    """Whether what it starts never comes to an end by itself, so that an end is a death, whatever its exit code: vLLM's
    server exits with 0 when its engine process was killed. False for programs that do their work and end."""
    driver: ClassVar[str] = ""
    """`module:Class` of the plugin's driver (`contract.driver`), for `rekindle plugin test`."""

    def initialize(self) -> None:
        """Called before anything else. Raise any RekindleError to stay out: the plugin is listed with the reason."""
        return

    def attach(self, engine: Identity, engine_version: str) -> None:
        """An engine of this backend has come, and its pages are about to be asked for.

        Raise any RekindleError to refuse it, with a hint that its operator can follow. Called again by every start.
        """
        return

    def finalize(self) -> None:
        """The process ends. Never raises."""
        return

    @abstractmethod
    def recognises(self, launch: Launch) -> bool:
        """Whether a command line or container starts this engine. Cheap, and never raises."""

    @abstractmethod
    def wire(self, launch: Launch) -> Wired:
        """The launch with the flags that load the shim. What is wired already is left as it is.

        The environment (PYTHONPATH, REKINDLE_RUN_DIR) is the caller's part. Raises ConfigError, with the manual recipe
        as its hint, where that cannot be done safely; nothing is ever guessed.
        """

    def flags(self) -> tuple[str, ...]:
        """What `wire` adds to a plain command, word by word, for people to add by hand."""
        return ()

    def listens(self, launch: Launch) -> Listening:
        """Where that launch's HTTP server listens. `contract.listening.ServerFlags` does it for engines with flags.

        Optional: without it the stream proxy cannot take the port over by itself. Raises ConfigError where it is not
        certain, or where the server speaks something else than plain HTTP.
        """
        raise ConfigError("move", f"{self.info.name} server", "its plugin cannot tell its port", PROXY_BY_HAND)

    def moved(self, launch: Launch, port: int) -> Launch:
        """The launch with its server on another port of the same host. Asked only after `listens`."""
        raise ConfigError("move", f"{self.info.name} server", "its plugin cannot change its port", PROXY_BY_HAND)

    def judge(self, engine: Identity, stored: Identity) -> Sequence[Mismatch]:
        """Why pages stored under one identity may not come back into an engine of the other; empty: they may.

        An adapter can find more reasons, or explain them better. It cannot take one away: pages are only ever looked
        for under an identity that is equal in every field.
        """
        return engine.mismatches(stored)

    def read_health(self, status: int, body: bytes) -> Health:
        """What an answer from `health_path` means. `status` is HTTP's; no answer at all is not asked about."""
        if status == 200:
            return Health.SERVING
        return Health.STARTING if status == 503 else Health.FAILED

    def dialect(self) -> Dialect | None:
        """What the stream proxy needs; None: this engine's requests pass through unprotected. Never raises."""
        return None


def is_wired_script(launch: Launch, mark: str) -> bool:
    """Whether a script for a shell has been wired by hand: it has the word by which the shim is named."""
    return launch.is_shell and any(mark in word for word in launch.words)


def refuse_shell(launch: Launch, info: PluginInfo, flags: Sequence[str]) -> None:
    """Raises ConfigError where a launch is a script for a shell. The first thing a `wire` does."""
    if launch.is_shell:
        raise ConfigError(
            "wire",
            f"{info.name} command",
            "it is a script for a shell, which cannot be edited safely",
            f"add to the engine's command in it: {' '.join(flags)}",
        )
