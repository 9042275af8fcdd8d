"""The recovery reports on disk: ``<run_dir>/recovery-<n>.json``, written by the keeper, read by it and by the CLI.

They outlive the sidecar: numbers go on after a restart, and a report can be read while no sidecar is there. A file is
believed only as far as its fields have the right types, and is read up to a bound.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from rekindle.lifecycle.status import RecoveryReport

KEPT = 32
_LARGEST_BYTES = 256 << 10
_TEXTS = ("identity", "reason", "suspicion")
_OPTIONAL_TEXTS = ("died_instance", "started_instance")
_COUNTS = ("number", "pages_committed", "pages_salvaged", "pages_unsaved", "pages_restored", "tokens_restored")


def write_report(directory: Path, report: RecoveryReport) -> None:
    """Atomically, in the place of the one ``KEPT`` numbers before it. Raises OSError."""
    path = directory / f"recovery-{report.number % KEPT}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    os.replace(temporary, path)


def read_reports(directory: Path) -> list[RecoveryReport]:
    """All that can be read there, by number. What is no report is left out; no directory is no reports."""
    found: dict[int, RecoveryReport] = {}
    for place in range(KEPT):
        with contextlib.suppress(OSError, ValueError):
            with (directory / f"recovery-{place}.json").open("rb") as file:
                report = parse_report(file.read(_LARGEST_BYTES))
            found[report.number] = report
    return [found[number] for number in sorted(found)]


def parse_report(text: bytes | str) -> RecoveryReport:
    """Raises ValueError for what is no report. Fields that a newer version has are left out."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    known = {field.name for field in fields(RecoveryReport)}
    values = {name: _checked(name, value) for name, value in data.items() if name in known}
    try:
        return RecoveryReport(**values)
    except TypeError as error:
        raise ValueError(f"a field is missing: {error}") from None


def _checked(name: str, value: Any) -> Any:
    if name in _COUNTS:
        good = _is_count(value)
    elif name in _TEXTS:
        good = isinstance(value, str)
    elif name in _OPTIONAL_TEXTS:
        good = value is None or isinstance(value, str)
    elif name == "pages_rejected":
        good = isinstance(value, dict) and all(map(_is_count, value.values()))
    elif name == "mismatches":
        good = isinstance(value, list) and all(isinstance(text, str) for text in value)
        value = tuple(value) if good else value
    else:  # the times
        good = value is None or (_is_number(value) and 0 <= value < 1e12)
    if not good:
        raise ValueError(f"{name} is {value!r:.80}")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
