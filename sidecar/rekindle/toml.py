"""Reading our TOML files, on every Python that we support."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rekindle_plugins.contract.errors import ConfigError


def read_toml(path: Path) -> Mapping[str, object]:
    """The content of a TOML file. Raises ConfigError when there is none, or it is none."""
    try:
        toml: Any = importlib.import_module("tomllib")
    except ModuleNotFoundError:
        try:
            toml = importlib.import_module("tomli")
        except ModuleNotFoundError:
            hint = "install tomli, use Python 3.11 or later, or set REKINDLE_* in the environment"
            raise ConfigError("read", f"file {path}", "Python 3.10 cannot read TOML by itself", hint) from None
    try:
        content: dict[str, object] = toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("read", f"file {path}", error.strerror or str(error), "check the path") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both of it
        raise ConfigError("read", f"file {path}", f"it is not TOML: {error}", "key = value, one per line") from None
    return content


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that nobody knows."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else "known: " + ", ".join(names)
