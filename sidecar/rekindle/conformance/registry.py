"""All checks in the order in which they are run: from what everything rests on to what is rare."""

from __future__ import annotations

from collections.abc import Sequence

from rekindle_plugins.contract.errors import ConfigError

from rekindle.conformance.check import Check
from rekindle.conformance.checks import (
    adapter,
    capabilities,
    commits,
    faults,
    fills,
    geometry,
    identities,
    journal,
    keys,
    kills,
    life,
    overwrites,
    resets,
    restore,
    sidecars,
    versions,
)
from rekindle.toml import nearest

CHECKS: tuple[Check, ...] = (
    *adapter.CHECKS,
    *life.CHECKS,
    *versions.CHECKS,
    *geometry.CHECKS,
    *commits.CHECKS,
    *keys.CHECKS,
    *overwrites.CHECKS,
    *restore.CHECKS,
    *capabilities.CHECKS,
    *fills.CHECKS,
    *kills.CHECKS,
    *identities.CHECKS,
    *sidecars.CHECKS,
    *journal.CHECKS,
    *resets.CHECKS,
    *faults.CHECKS,
)


def named(names: Sequence[str]) -> tuple[Check, ...]:
    """The checks of these names, or all. Raises ConfigError for a name that is none."""
    known = {check.name: check for check in CHECKS}
    for name in names:
        if name not in known:
            raise ConfigError("test", f"check {name}", "there is none of this name", nearest(name, known))
    return tuple(check for check in CHECKS if not names or check.name in names)
