"""Log lines: stable keys, one line whatever the value, repeats held back."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
from rekindle.cli.logs import JsonFormatter, KeyValueFormatter, RepeatFilter


def record(message: str, *arguments: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("rekindle.keeper", logging.INFO, __file__, 1, message, arguments, None)
    made.created, made.msecs = 1760000000.25, 250.0
    vars(made).update(extra)
    return made


def test_a_line_has_time_level_logger_event_and_the_extras() -> None:
    line = KeyValueFormatter().format(record("engine attached", backend="vllm", ranks=2, took_s=0.1234567, note=""))
    assert line == (
        "time=2025-10-09T08:53:20.250Z level=info logger=rekindle.keeper "
        'event="engine attached" backend=vllm ranks=2 took_s=0.123457 note=""'
    )


def test_a_value_with_a_line_break_stays_on_one_line() -> None:
    assert KeyValueFormatter().format(record("x", hint='a "b"\nc')).endswith(r'hint="a \"b\"\nc"')


@pytest.mark.parametrize("formatter", [KeyValueFormatter(), JsonFormatter()])
def test_a_message_of_keys_gives_those_keys(formatter: logging.Formatter) -> None:
    line = formatter.format(record("event=%s problem=%s number=%d", "refused", "two words", 3))
    expected = {"event": "refused", "problem": "two words", "number": "3"}
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line).items() >= expected.items()
    else:
        assert line.endswith('event=refused problem="two words" number=3')


def test_an_exception_is_a_key_and_json_stays_json() -> None:
    try:
        raise ZeroDivisionError("oh")
    except ZeroDivisionError:
        made = record("failed", where=object)
        made.exc_info = sys.exc_info()
    fields = json.loads(JsonFormatter().format(made))
    assert fields["error"] == "ZeroDivisionError: oh"
    assert "Traceback" in fields["traceback"]


def test_repeats_are_held_back_and_counted() -> None:
    limit = RepeatFilter()
    assert sum(limit.filter(record("same")) for _ in range(100)) == 20
    assert limit.filter(record("other"))
    later = record("same")
    later.created += 11
    assert limit.filter(later)
    assert KeyValueFormatter().format(later).endswith("repeats=80")
