"""A plugin folder: one directory with a `plugin.toml` and the plugin's code beside it.

    myengine/
      plugin.toml              name = "myengine"
      rekindle_myengine/       adapter = "rekindle_myengine.adapter:MyAdapter"
        adapter.py             driver = "rekindle_myengine.driver:Driver"      (optional: `rekindle plugin test`)
        shim.py

Its code is imported from the folder, which is put last on the path: it cannot take the place of anything that is there.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle_plugins.contract.errors import ConfigError

from rekindle.toml import nearest, read_toml

FILE_NAME = "plugin.toml"
KEYS = ("name", "adapter", "driver")


@dataclass(frozen=True)
class PluginFolder:
    """What a `plugin.toml` says. `adapter` and `driver` are `module:attribute`."""

    path: Path
    name: str
    adapter: str
    driver: str = ""

    @staticmethod
    def read(path: Path) -> PluginFolder:
        """Raises ConfigError for a file that is missing, malformed, or has an unknown key."""
        file = path / FILE_NAME
        content = read_toml(file)
        for key in content:
            if key not in KEYS:
                raise ConfigError("read", f"file {file}", f"unknown key {key!r}", nearest(key, KEYS))
        name, adapter, driver = (_text(content, key, file) for key in KEYS)
        if not name or not adapter:
            raise ConfigError("read", f"file {file}", "name and adapter are needed", 'adapter = "module:Class"')
        return PluginFolder(path, name, adapter, driver)

    def load(self, reference: str) -> Any:
        """The object that `module:attribute` names in this folder. Raises ConfigError, or what the import raises."""
        module_name, colon, attribute = reference.partition(":")
        if not colon or not attribute:
            raise ConfigError("load", f"plugin {self.name}", f"{reference!r} is not module:attribute")
        self._claim(module_name.partition(".")[0])
        return getattr(importlib.import_module(module_name), attribute)

    def _claim(self, package: str) -> None:
        """Makes the folder's package importable, unless its name is somebody else's already."""
        if str(self.path) not in sys.path:
            sys.path.append(str(self.path))
            importlib.invalidate_caches()
        found = importlib.util.find_spec(package)
        places = [*(found.submodule_search_locations or ()), found.origin or ""] if found is not None else []
        if found is not None and not any(Path(place).is_relative_to(self.path) for place in places if place):
            problem = f"its package {package} is there already, in {places[0] or 'this Python'}"
            raise ConfigError("load", f"plugin {self.name}", problem, "give the package a name of its own")


def plugin_folders(directory: Path) -> list[Path]:
    """The folders with a `plugin.toml` in a plugin directory, by name. Raises ConfigError when it cannot be read."""
    try:
        return sorted(entry for entry in directory.iterdir() if (entry / FILE_NAME).is_file())
    except OSError as error:
        hint = "--plugin-dir names a directory with one folder a plugin"
        raise ConfigError("read", f"plugin directory {directory}", error.strerror or str(error), hint) from None


def _text(content: Mapping[str, object], key: str, file: Path) -> str:
    value = content.get(key, "")
    if not isinstance(value, str):
        raise ConfigError("read", f"file {file}", f"{key} is {value!r:.40}, not a text")
    return value
