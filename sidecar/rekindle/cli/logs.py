"""What the sidecar's log lines look like: ``key=value`` or JSON, on stderr, with repeats held back.

How an event becomes keys is told in ``rekindle.log_lines``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from rekindle.log_lines import event_fields, write_from

_BURST = 20
"""Lines of one event that are let through within ``_WINDOW_S``."""
_WINDOW_S = 10.0


def set_up(level: str, as_json: bool) -> None:
    """Make ``rekindle`` log to stderr, at ``level`` (a ``Config.log_level``). Other libraries log warnings only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else KeyValueFormatter())
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    write_from(level)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """A line's keys, in order: time, level, logger and event first, then the extras, then the error."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields: dict[str, Any] = {
        "time": f"{moment}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
    }
    fields |= event_fields(record)
    if getattr(record, "repeats", 0):
        fields["repeats"] = vars(record)["repeats"]
    if record.exc_info and record.exc_info[1] is not None:
        fields["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


class KeyValueFormatter(logging.Formatter):
    """``time=… level=info logger=rekindle.keeper event="engine attached" backend=vllm``; one line whatever happens."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_quoted(value)}" for key, value in _fields(record).items())


class JsonFormatter(logging.Formatter):
    """The same keys as one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(record), default=str, ensure_ascii=False)


def _quoted(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    plain = text and text.isprintable() and not any(character in text for character in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)


class RepeatFilter(logging.Filter):
    """Lets ``_BURST`` lines of one event through per window; the first line after it says how many were held back."""

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # By the unformatted message: an event is a constant. Events are few, so this needs no bound of its own.
        key = (record.name, str(record.msg))
        began_s, count = self._windows.get(key, (record.created, 0))
        if record.created - began_s > _WINDOW_S:
            record.repeats = max(0, count - _BURST)
            began_s, count = record.created, 0
        self._windows[key] = (began_s, count + 1)
        return count < _BURST
