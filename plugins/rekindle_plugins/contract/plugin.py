"""What a backend plugin says of itself, and the order of its life. The same for both halves.

A plugin teaches Rekindle one engine. It has two halves, which never share a process:

    shim      in the engine's processes: hands memory over, commits pages, restores      rekindle_plugins.client
    adapter   in the sidecar: wires the engine's command, judges identities, reads its health    contract.adapter

    initialize ──▶ attach ──▶ … ──▶ finalize          (`Stages` refuses any other order)

`api_version` is the version of this contract that a plugin was written for. The host is whatever loads it: for a shim
the `rekindle_plugins` in the engine's process and the sidecar that it says hello to, for an adapter the sidecar.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.errors import ProtocolError, VersionError
from rekindle_plugins.contract.wire import API_VERSION

MAX_TEXT_CHARS = 64
MAX_CAPABILITIES = 32
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Capability(enum.Enum):
    """What a plugin can do. The values are what goes over the socket; unknown ones are left out."""

    EAGER_RESTORE = "eager-restore"
    """Puts pages into the engine's own prefix cache before it serves."""
    LAZY_RESTORE = "lazy-restore"
    """Puts pages back when a request asks for them."""
    HYBRID_GROUPS = "hybrid-groups"
    """Several KV-cache groups (sliding window beside full attention)."""
    MULTI_RANK = "multi-rank"
    """A page may be spread over several ranks."""
    GPU_MEMORY = "gpu-memory"
    """KV cache in CUDA memory."""
    CACHE_RESET = "cache-reset"
    """Tells when the engine drops its cache or its weights change."""
    STREAM_RESUME = "stream-resume"
    """The adapter knows the engine's HTTP dialect, so that the proxy can continue an answer."""


@dataclass(frozen=True)
class PluginInfo:
    """A plugin's name and version, the contract it was written for, and what it can do."""

    name: str
    """The backend's name, as in identities and entry points: a lower-case word such as "vllm"."""
    version: str
    """The plugin's own."""
    engine: str
    """Which engine in which versions, for people: "vLLM 0.28 to 0.32"."""
    capabilities: frozenset[Capability] = frozenset()
    api_version: tuple[int, int] = (1, 0)

    def check(self, host: str, host_version: tuple[int, int] = API_VERSION) -> None:
        """Whether `host` ("the sidecar") can load this plugin.

        Raises VersionError, naming both versions, unless the majors are equal and the host's minor is not the lower
        one; ProtocolError when the name is none.
        """
        if not _NAME.fullmatch(self.name):
            raise ProtocolError("load", f"plugin {self.name!r:.40}", "its name is no lower-case word", "such as vllm")
        wanted, given = self.api_version, host_version
        if wanted[0] != given[0] or wanted[1] > given[1]:
            behind = host if wanted > given else f"plugin {self.name}"
            raise VersionError(
                "load",
                f"plugin {self.name} {self.version}",
                f"it was written for contract {wanted[0]}.{wanted[1]}, {host} speaks {given[0]}.{given[1]}",
                f"upgrade {behind}",
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "engine": self.engine,
            "capabilities": sorted(capability.value for capability in self.capabilities),
            "api_version": list(self.api_version),
        }

    @staticmethod
    def from_json(data: Any) -> PluginInfo:
        """What a peer says of its plugin. Raises ProtocolError for what is none; capabilities we do not know are left
        out, a higher minor may have added them."""
        try:
            texts = [data["name"], data["version"], data["engine"]]
            major, minor = data["api_version"]
            capabilities = list(data["capabilities"])
            if not all(isinstance(text, str) and len(text) <= MAX_TEXT_CHARS and text.isprintable() for text in texts):
                raise ValueError("its texts are too long or unprintable")
            if not all(type(number) is int and 0 <= number < 1 << 16 for number in (major, minor)):
                raise ValueError("its api_version is not two numbers")
            if len(capabilities) > MAX_CAPABILITIES:
                raise ValueError(f"it has more than {MAX_CAPABILITIES} capabilities")
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError("receive", "plugin description", f"{data!r:.80} is malformed: {error}") from error
        known = {capability.value: capability for capability in Capability}
        found = frozenset(known[name] for name in capabilities if isinstance(name, str) and name in known)
        return PluginInfo(texts[0], texts[1], texts[2], found, (major, minor))


class Stage(enum.Enum):
    """Where a half of a plugin is in its life."""

    MADE = "made"
    INITIALIZED = "initialized"
    ATTACHED = "attached"
    FINALIZED = "finalized"


_BEFORE = {
    Stage.INITIALIZED: (Stage.MADE,),
    Stage.ATTACHED: (Stage.INITIALIZED,),
    Stage.FINALIZED: (Stage.MADE, Stage.INITIALIZED, Stage.ATTACHED, Stage.FINALIZED),
}


class Stages:
    """The life of one half: `enter` a stage before doing what belongs to it."""

    def __init__(self, owner: str) -> None:
        self.stage = Stage.MADE
        self._owner = owner

    def enter(self, stage: Stage) -> None:
        """Raises ProtocolError for a stage that cannot follow. What failed to initialize or attach can be finalized,
        and what is finalized can be again: engines stop in more than one way."""
        if self.stage not in _BEFORE[stage]:
            raise ProtocolError("run", self._owner, f"it is {self.stage.value} and cannot become {stage.value}")
        self.stage = stage

    def require(self, *stages: Stage) -> None:
        if self.stage not in stages:
            raise ProtocolError("run", self._owner, f"it is {self.stage.value}, wanted {_names(stages)}")


def _names(stages: Iterable[Stage]) -> str:
    return " or ".join(stage.value for stage in stages)
