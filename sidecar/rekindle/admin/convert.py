"""``KeeperStatus`` to and from the admin API's messages. Pure; used by the server and by the client.

A message has a field for every field of its value, by the same name: values are copied by name, and what is not
copied as it is (nested values, the state's enum, tuples) is told here. A field that only one side has is an error
in the unit test, not a silent loss.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from rekindle.admin.v1 import admin_pb2 as pb
from rekindle.lifecycle.status import EngineStatus, KeeperStatus, PageCounters, RecoveryReport, StoreStatus

Value = TypeVar("Value", PageCounters, RecoveryReport, EngineStatus, StoreStatus, KeeperStatus)

_STATE_PREFIX = "ENGINE_STATE_"


def to_proto(status: KeeperStatus) -> pb.KeeperStatus:
    """The message of ``status``. Raises ValueError for a count below zero: a bug of ours."""
    engines = [pb.EngineStatus(**_plain(e, pages=_counters(e.pages), state=_state(e.state))) for e in status.engines]
    stores = [pb.StoreStatus(**_plain(store)) for store in status.stores]
    last = status.last_recovery
    recovery = pb.RecoveryReport(**_plain(last)) if last is not None else None
    return pb.KeeperStatus(**_plain(status, engines=engines, stores=stores, last_recovery=recovery))


def from_proto(message: pb.KeeperStatus) -> KeeperStatus:
    """The value of ``message``. A state of a newer server's, unknown here, reads "unspecified"."""
    engines = tuple(
        _value(EngineStatus, e, pages=_value(PageCounters, e.pages), state=_state_word(e.state))
        for e in message.engines
    )
    stores = tuple(_value(StoreStatus, store) for store in message.stores)
    known = message.HasField("last_recovery")
    recovery = _value(RecoveryReport, message.last_recovery) if known else None
    return _value(KeeperStatus, message, engines=engines, stores=stores, last_recovery=recovery)


def _counters(pages: PageCounters) -> pb.PageCounters:
    return pb.PageCounters(**_plain(pages))


def _state(word: str) -> int:
    # An unknown word is not worth failing the whole answer for.
    known = pb.EngineState.DESCRIPTOR.values_by_name.get(_STATE_PREFIX + word.upper().replace("-", "_"))
    return known.number if known is not None else 0


def _state_word(state: int) -> str:
    known = pb.EngineState.DESCRIPTOR.values_by_number
    name = known[state].name if state in known else known[0].name
    return name.removeprefix(_STATE_PREFIX).lower().replace("_", "-")


def _plain(value: Any, **replaced: Any) -> dict[str, Any]:
    """A dataclass' fields by name, one level deep. protobuf takes tuples for lists and None for unset."""
    return {field.name: getattr(value, field.name) for field in fields(value)} | replaced


def _value(kind: type[Value], message: Any, **replaced: Any) -> Value:
    """A dataclass from the message of the same fields; unset optional fields are None."""
    arguments: dict[str, Any] = {}
    for field in fields(kind):
        name = field.name
        if name in replaced:
            arguments[name] = replaced[name]
            continue
        described = message.DESCRIPTOR.fields_by_name[name]
        content = getattr(message, name)
        if described.message_type is not None and described.message_type.GetOptions().map_entry:
            arguments[name] = dict(content)
        elif described.is_repeated:
            arguments[name] = tuple(content)
        elif described.has_presence and not message.HasField(name):
            arguments[name] = None
        else:
            arguments[name] = content
    return kind(**arguments)
