"""What an injected manifest is judged by: schemas of which versions, and what no schema says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

VERSIONS = ("1.29", "1.34")
"""The first with native sidecars, and the first with resource claims in v1."""
CORE = {"Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}


def check_references(spec: Mapping[str, Any], claimed: Collection[str] = ()) -> None:
    """What no schema says: mounts name volumes, claims are there, names are unique, probes name ports that are open.

    `claimed`: volumes that a stateful set adds to its pods.
    """
    containers = [*spec.get("initContainers", ()), *spec["containers"]]
    names = [container["name"] for container in containers]
    assert len(set(names)) == len(names)
    volumes = [volume["name"] for volume in spec.get("volumes", ())]
    assert len(set(volumes)) == len(volumes)
    claims = {claim["name"] for claim in spec.get("resourceClaims", ())}
    ports = {port["containerPort"] for container in containers for port in container.get("ports", ())}
    for container in containers:
        assert {mount["name"] for mount in container.get("volumeMounts", ())} <= {*volumes, *claimed}
        assert {claim["name"] for claim in container.get("resources", {}).get("claims", ())} <= claims
        if container["name"] == "rekindle":
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] in ports
