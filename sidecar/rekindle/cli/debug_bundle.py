"""The archive of ``rekindle debug bundle``: parts are collected one by one, each may fail, a manifest tells of all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rekindle_plugins.contract.errors import ConfigError, RekindleError

from rekindle.cli.redact import without_secrets

LARGEST_BYTES = 2 << 20
"""Of one file; more of it is cut off at its beginning, since the end of a log matters more."""
LEFT_OUT = "page contents, token ids and texts; keys and secrets; the environment, but for Rekindle's own settings"


@dataclass(frozen=True)
class Part:
    """One file of the bundle. ``collect`` gives its text, or raises where there is nothing to be had."""

    name: str
    about: str
    collect: Callable[[], str]


@dataclass
class Bundle:
    """Made once, written once."""

    made_unix: float
    files: dict[str, bytes] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    _about: dict[str, str] = field(default_factory=dict)

    def collect(self, part: Part) -> None:
        """Whatever goes wrong with one part is told of it, and costs nothing else."""
        try:
            text = part.collect()
        except RekindleError as error:
            self.missing[part.name] = without_secrets(str(error))
        except OSError as error:
            self.missing[part.name] = error.strerror or str(error)
        except Exception as error:
            self.missing[part.name] = f"could not be collected: {type(error).__name__}"
        else:
            self.files[part.name] = without_secrets(text).encode(errors="replace")[-LARGEST_BYTES:]
            self._about[part.name] = part.about

    def write(self, path: Path) -> int:
        """Whole or not at all, and for the user's own eyes (0600). Returns its size in bytes. Raises ConfigError."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(fd, "wb") as file:
                file.write(self._archive())
            os.replace(temporary, path)
            return path.stat().st_size
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ConfigError("write", str(path), error.strerror or str(error), "choose another with -o") from None

    def _archive(self) -> bytes:
        raw = io.BytesIO()
        folder = time.strftime("rekindle-debug-%Y%m%d-%H%M%S", time.gmtime(self.made_unix))
        with tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for name, content in {"manifest.json": self._manifest(), **self.files}.items():
                entry = tarfile.TarInfo(f"{folder}/{name}")  # its owner is nobody's: names of users stay here
                entry.size, entry.mtime, entry.mode = len(content), int(self.made_unix), 0o600
                archive.addfile(entry, io.BytesIO(content))
        return raw.getvalue()

    def _manifest(self) -> bytes:
        files = [
            {
                "name": name,
                "about": self._about[name],
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in self.files.items()
        ]
        manifest = {
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.made_unix)),
            "files": files,
            "missing": [{"name": name, "why": why} for name, why in self.missing.items()],
            "left_out": LEFT_OUT,
        }
        return (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
