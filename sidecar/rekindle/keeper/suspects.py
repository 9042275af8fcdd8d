"""The rows of suspicious deaths, by identity, in a small file beside the arenas: they outlive the sidecar, as those do.

Runs on the keeper's event loop. The file is written when an engine dies right after a restore, and when a row ends;
both are rare. A file that cannot be read, or says what cannot be, is worth nothing: the rows begin anew.

    {"<identity digest in hex>": {"deaths": 2, "since_tick": 1234}, …}
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from rekindle.lifecycle.suspicion import Record

log = logging.getLogger("rekindle.recovery")

FILE_NAME = "suspects.json"
MAX_RECORDS = 64
_MAX_BYTES = 64 << 10
_MAX_COUNT = 1 << 62
_DIGEST_CHARS = 64


class Suspects:
    """All rows of one store directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._records = _read(self._path)

    def record(self, digest: bytes) -> Record:
        return self._records.get(digest.hex(), Record())

    def put(self, digest: bytes, record: Record) -> None:
        """Remembers a record; one without deaths is forgotten. A file that cannot be written is not fatal."""
        if record == self.record(digest):
            return
        self._records.pop(digest.hex(), None)
        if record.deaths:
            self._records[digest.hex()] = record
        while len(self._records) > MAX_RECORDS:
            del self._records[next(iter(self._records))]
        self._write()

    def _write(self) -> None:
        rows = {name: {"deaths": r.deaths, "since_tick": r.since_tick} for name, r in self._records.items()}
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")
            os.replace(temporary, self._path)
        except OSError as error:
            log.warning("event=suspects_not_written path=%s error=%s", self._path, error)


def _read(path: Path) -> dict[str, Record]:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        data = json.loads(raw)
        if not isinstance(data, dict) or len(data) > MAX_RECORDS:
            raise ValueError("no table of a few identities")
        return {name: _record(name, row) for name, row in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("event=suspects_not_read path=%s error=%s", path, error)
        return {}


def _record(name: str, row: Any) -> Record:
    if len(name) != _DIGEST_CHARS or set(name) - set("0123456789abcdef"):
        raise ValueError(f"{name!r:.80} is no identity")
    if not isinstance(row, dict) or set(row) != {"deaths", "since_tick"}:
        raise ValueError(f"{row!r:.80} is no record")
    if not all(type(count) is int and 0 <= count < _MAX_COUNT for count in row.values()):
        raise ValueError(f"the counts of {row!r:.80} cannot be")
    return Record(row["deaths"], row["since_tick"])
