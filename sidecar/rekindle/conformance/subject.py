"""What is being tested: a plugin by name or by folder, its adapter and its driver."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rekindle_plugins.contract.adapter import Adapter
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.contract.plugin import Capability, PluginInfo

from rekindle.backends import Found, discover
from rekindle.backends.folder import FILE_NAME
from rekindle.backends.registry import load_folder

NO_DRIVER = 'write one (docs/plugins.md) and name it: driver = "module:Class" in plugin.toml, or Adapter.driver'


@dataclass(frozen=True)
class Subject:
    """One plugin under test."""

    name: str
    source: str
    adapter: Adapter
    driver: str
    """`module:Class`, imported by the child alone."""
    folder: Path | None = None
    python: str = sys.executable
    """The engine's interpreter."""

    @property
    def info(self) -> PluginInfo:
        return self.adapter.info

    def can(self, *capabilities: Capability) -> bool:
        """Whether the plugin declares any of these."""
        return bool(self.info.capabilities & set(capabilities))


def find(name_or_dir: str, plugin_dirs: Sequence[Path] = (), python: str = sys.executable) -> Subject:
    """Raises ConfigError when there is no such plugin, it cannot be loaded, or names no driver."""
    path = Path(name_or_dir)
    if (path / FILE_NAME).is_file():
        found = load_folder(path.absolute())
    else:
        backends = discover(plugin_dirs)
        backends.named(name_or_dir)
        found = next(entry for entry in backends.found if entry.name == name_or_dir and entry.adapter is not None)
    return of(found, python)


def of(found: Found, python: str = sys.executable) -> Subject:
    """Raises ConfigError as `find` does."""
    if found.adapter is None:
        raise ConfigError("test", f"plugin {found.name}", found.problem, "it must load before it can be tested")
    driver = (found.folder.driver if found.folder else "") or found.adapter.driver
    if not driver.partition(":")[2]:
        raise ConfigError("test", f"plugin {found.name}", "it names no driver", NO_DRIVER)
    folder = found.folder.path if found.folder else None
    return Subject(found.name, found.source, found.adapter, driver, folder, python)
