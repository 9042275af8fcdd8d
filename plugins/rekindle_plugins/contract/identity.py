"""Identity: everything that makes stored KV bytes reusable by another process.

A flat set of named fields. Pages are put back only when every field is equal; when one is not, it is named. A field
whose value could not be established makes the whole identity unusable: uncertain means a miss.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.errors import IdentityError

MAX_FIELDS = 64
MAX_VALUE_CHARS = 2048
REQUIRED = ("backend", "model", "model_files", "geometry", "parallel", "hash_scheme")


@dataclass(frozen=True)
class Mismatch:
    """One field in which two identities differ."""

    field: str
    stored: str
    engine: str

    def __str__(self) -> str:
        return f"{self.field}: stored {self.stored or 'nothing'}, engine has {self.engine or 'nothing'}"


@dataclass(frozen=True)
class Identity:
    """Named fields in canonical order. `digest` names the arena file."""

    fields: tuple[tuple[str, str], ...]

    @staticmethod
    def of(fields: Mapping[str, object]) -> Identity:
        """Builds an identity. Raises IdentityError when a required field is missing or a value is empty or too long."""
        missing = [name for name in REQUIRED if not str(fields.get(name) or "")]
        if missing:
            raise IdentityError(
                "identify", "engine", f"no value for {', '.join(missing)}", "without it pages could be put back wrongly"
            )
        if len(fields) > MAX_FIELDS or any(len(str(value)) > MAX_VALUE_CHARS for value in fields.values()):
            raise IdentityError("identify", "engine", f"more than {MAX_FIELDS} fields or {MAX_VALUE_CHARS} characters")
        return Identity(tuple(sorted((name, str(value)) for name, value in fields.items())))

    @property
    def digest(self) -> bytes:
        """32 bytes: SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_text().encode()).digest()

    def to_text(self) -> str:
        return json.dumps(dict(self.fields), sort_keys=True, separators=(",", ":"))

    def with_field(self, name: str, value: str) -> Identity:
        return Identity.of({**dict(self.fields), name: value})

    def mismatches(self, stored: Identity) -> list[Mismatch]:
        """The fields in which a stored identity differs from this one, by name."""
        ours, theirs = dict(self.fields), dict(stored.fields)
        return [
            Mismatch(name, theirs.get(name, ""), ours.get(name, ""))
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        ]

    @staticmethod
    def from_json(data: Any) -> Identity:
        """Raises IdentityError for anything but a flat object of strings."""
        if not isinstance(data, dict) or not all(isinstance(v, str) for kv in data.items() for v in kv):
            raise IdentityError("identify", "engine", "the identity is not a flat object of strings")
        return Identity.of(data)
