"""What may not leave the machine in a bug report: secrets, by the names they go by, and lines that are not ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from rekindle.config import SETTINGS

HIDDEN = "(hidden)"

# Each begins with what is rare, so that a long line costs no more than its length.
_NAME = r"(?:secret|passw(?:or)?d|credential|api[_-]?key|private[_-]?key|auth[_-]?token|access[_-]?key)[\w.-]{0,64}"
_PAIR = re.compile(rf"(?i)({_NAME}\"?\s{{0,8}}[=:]\s{{0,8}})(\"(?:[^\"\\]|\\.)*\"|[^\s,;}}\]]+)")
_USER_IN_URL = re.compile(r"(://)[^/\s@\"]{1,256}@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_OUR_LINE = re.compile(r"time=\S+ level=\w+ logger=rekindle[\w.]* ")


def without_secrets(text: str) -> str:
    """Values of names such as ``api_key``, users and passwords in URLs, and authorization headers are hidden."""
    text = _PAIR.sub(_hidden_value, text)
    text = _USER_IN_URL.sub(rf"\1{HIDDEN}@", text)
    return _BEARER.sub(rf"\1 {HIDDEN}", text)


def _hidden_value(found: re.Match[str]) -> str:
    """JSON stays JSON: under a name in quotes there is nothing, or a string."""
    name, value = found[1], found[2]
    if value == "null":
        return found[0]
    return name + (f'"{HIDDEN}"' if value.startswith('"') or '"' in name else HIDDEN)


def our_lines(lines: Iterable[str]) -> tuple[list[str], int]:
    """The sidecar's own log lines of some, and how many others there were.

    Under ``rekindle run`` an engine writes to the same place, and it may log what its users ask.
    """
    ours, others = [], 0
    for line in lines:
        if _OUR_LINE.match(line) or _is_our_json(line):
            ours.append(line)
        elif line.strip():
            others += 1
    return ours, others


def _is_our_json(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and str(fields.get("logger", "")).startswith("rekindle")


def known_flags(arguments: Sequence[str]) -> list[str]:
    """A sidecar's command line with what we know of it: our settings' flags with their values. All else is hidden."""
    values = {setting.flag for setting in SETTINGS if not setting.is_switch} | {"--config"}
    switches = {flag for s in SETTINGS if s.is_switch for flag in (s.flag, f"--no-{s.flag[2:]}")} | {"serve"}
    shown: list[str] = []
    is_value = False
    for argument in arguments:
        flag, has_value, _ = argument.partition("=")
        if is_value or argument in values | switches or (has_value and flag in values):
            shown.append(argument)
        elif shown[-1:] != [HIDDEN]:
            shown.append(HIDDEN)
        is_value = not is_value and argument in values
    return shown
