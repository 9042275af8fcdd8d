"""The engine's API key, for the proxy's own questions: out of a file or the environment, never off a command line."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rekindle_plugins.contract.errors import ConfigError

from rekindle.config import PROXY_API_KEY

LOG = logging.getLogger("rekindle.proxy")

_LONGEST = 4096


class EngineKey:
    """Read anew for every engine, because a mounted secret may change."""

    def __init__(self, path: Path | None) -> None:
        """``path``: None for the environment's."""
        self._path = path
        self._last = ""

    def check(self) -> None:
        """Raises ConfigError where it is none."""
        self._last = self._read()

    def read(self) -> str:
        """The key, empty where there is none; the last one where it cannot be read any more."""
        try:
            self._last = self._read()
        except ConfigError as error:
            LOG.warning("key not read", extra={"problem": str(error)})
        return self._last

    def _read(self) -> str:
        source = f"environment {PROXY_API_KEY}" if self._path is None else f"proxy_api_key_file {self._path}"
        try:
            text = os.environ.get(PROXY_API_KEY, "") if self._path is None else self._path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            problem = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError("read", source, problem, "name a file that holds the engine's API key") from None
        key = text.strip()
        if len(key) > _LONGEST or not key.isascii() or (key and not key.isprintable()):
            raise ConfigError("read", source, "it is no key that HTTP can carry", "one line of ASCII, and nothing else")
        if self._path is not None and not key:
            raise ConfigError("read", source, "it is empty", "name a file that holds the engine's API key")
        return key
