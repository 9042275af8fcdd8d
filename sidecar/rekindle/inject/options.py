"""What is wanted: by the user for all pods, by annotations for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.errors import ConfigError

from rekindle.inject.choices import GpuMode
from rekindle.inject.kinds import Path, PodTemplate

PREFIX = "rekindle.dev/"
SWITCH, INJECTED, EDITS, ADDED = (PREFIX + name for name in ("inject", "injected", "edits", "added"))
PROXY, ENGINE_PORT, HTTP_PORT = (PREFIX + name for name in ("proxy", "engine-port", "http-port"))
"""What one pod says of itself, whatever the options say."""
YES, NO = ("enabled", "true"), ("disabled", "false")


@dataclass(frozen=True)
class Options:
    """What the user decides."""

    image: str
    version: str
    """Ours, for the annotation."""
    backend: str | None = None
    container: str | None = None
    gpu_mode: GpuMode = GpuMode.AUTO
    store_size_bytes: int = 8 << 30
    engine_uid: int | None = None
    proxy: bool = False
    """Whether the stream proxy takes over the engine's port."""
    engine_port: int | None = None
    """Where the engine listens behind it; None: the first port that no text of the pod mentions."""
    http_port: int | None = None
    """Where the sidecar serves its probes and metrics; None: 9470, in pods that have a network of their own."""
    template_path: Path | None = None
    """Where objects of a kind that we do not know have their pod template."""


def annotations_of(owner: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = owner.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return annotations if isinstance(annotations, Mapping) else {}


def wants_proxy(pod: PodTemplate, options: Options) -> bool:
    """What the pod says itself goes before what the user says of all."""
    said = str(annotations_of(pod.owner).get(PROXY, YES[0] if options.proxy else NO[0])).lower()
    if said not in (*YES, *NO):
        raise ConfigError("inject", f"annotation {PROXY}", f"{said!r:.40} is neither {YES[0]} nor {NO[0]}")
    return said in YES


def port_of(pod: PodTemplate, annotation: str, told: int | None) -> int | None:
    """What the pod says itself goes before what the user says of all (`told`)."""
    port = str(annotations_of(pod.owner).get(annotation) or told or "")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError("inject", f"annotation {annotation}", f"{port!r:.40} is no port")
    return int(port) if port else None
