"""A log record as named fields, and the level from which on lines are written. Stdlib only; used by the CLI's
formatters and by the keeper's event stream.

The convention for every logger under ``rekindle``: the message is a constant event, and what varies goes into
``extra``, whose names become keys: ``LOG.info("engine attached", extra={"backend": "vllm", "ranks": 2})``. A message
that is written ``event=attached backend=%s`` gives the same keys.
"""

from __future__ import annotations

import logging
import re
from typing import Any

OURS = ("rekindle", "rekindle_plugins")
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "repeats"}
_PAIR = re.compile(r"(\w+)=(.*?)(?= \w+=|$)", re.DOTALL)


def event_fields(record: logging.LogRecord) -> dict[str, Any]:
    """``event`` first, then what varies."""
    message = record.getMessage()
    fields: dict[str, Any] = dict(_PAIR.findall(message)) if message.startswith("event=") else {"event": message}
    return fields | {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}


def write_from(level: str) -> str:
    """Write lines from this level on (debug, info, warning, error). Returns the level it was before.

    Lines of INFO are made in any case: the event stream tells them, whatever is written.
    """
    number = logging.getLevelName(level.upper())
    before = logging.INFO
    for handler in logging.getLogger().handlers:
        before = handler.level or before
        handler.setLevel(number)
    for name in OURS:
        logging.getLogger(name).setLevel(min(number, logging.INFO))
    return logging.getLevelName(before).lower()
