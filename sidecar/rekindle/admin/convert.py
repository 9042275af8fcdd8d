"""The keeper's values to and from the admin API's messages. Pure; used by the server and by the client.

A message has the name of its value's class, and a field for every field of it, by the same name. So one pair of
functions serves all of them: values in values, tuples and maps are followed, and what is an enum in a message is a
lower-case word in a value. A field that only one side has is an error in the unit test, not a silent loss.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from rekindle.admin.v1 import admin_pb2 as pb
from rekindle.lifecycle.status import KeeperStatus

Value = TypeVar("Value")


def to_proto(status: KeeperStatus) -> pb.KeeperStatus:
    """The message of a whole status. Raises ValueError for a count below zero: a bug of ours."""
    message: pb.KeeperStatus = message_of(status)
    return message


def from_proto(message: pb.KeeperStatus) -> KeeperStatus:
    """The value of ``message``. A state of a newer server's, unknown here, reads "unspecified"."""
    return value_of(KeeperStatus, message)


def message_of(value: Any) -> Any:
    """The message of a dataclass of ours. Raises ValueError for a number that its field cannot hold."""
    message = getattr(pb, type(value).__name__)()
    for field in fields(value):
        content = getattr(value, field.name)
        described = message.DESCRIPTOR.fields_by_name[field.name]
        if content is None:
            continue
        if is_dataclass(content):
            getattr(message, field.name).CopyFrom(message_of(content))
        elif isinstance(content, dict):
            getattr(message, field.name).update(content)
        elif isinstance(content, tuple):
            getattr(message, field.name).extend(message_of(one) if is_dataclass(one) else one for one in content)
        elif described.enum_type is not None:
            setattr(message, field.name, enum_number(described.enum_type, content))
        else:
            setattr(message, field.name, content)
    return message


def value_of(kind: type[Value], message: Any) -> Value:
    """A dataclass of ours from the message of the same fields; unset optional fields are None."""
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    return kind(**{name: _content(hints[name], message, name) for name in hints})


def _content(hint: Any, message: Any, name: str) -> Any:
    described = message.DESCRIPTOR.fields_by_name[name]
    content = getattr(message, name)
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)]
    if described.message_type is not None and described.message_type.GetOptions().map_entry:
        return dict(content)
    if described.is_repeated:
        return tuple(value_of(kinds[0], one) for one in content) if kinds else tuple(content)
    if described.enum_type is not None:
        return enum_word(described.enum_type, content)
    is_optional = type(None) in get_args(hint)
    if is_optional and not message.HasField(name):
        return None
    return value_of(kinds[0], content) if kinds else content


def enum_number(enum: Any, word: str) -> int:
    """The number of ``ENGINE_STATE_RUNNING`` for "running". An unknown word is 0: not worth failing a whole answer."""
    known = enum.values_by_name.get(_prefix(enum) + word.upper().replace("-", "_"))
    return known.number if known is not None else 0


def enum_word(enum: Any, number: int) -> str:
    """The other way. A number that is not known here reads "unspecified"."""
    known = enum.values_by_number
    name: str = known[number].name if number in known else known[0].name
    return name.removeprefix(_prefix(enum)).lower().replace("_", "-")


def _prefix(enum: Any) -> str:
    name: str = enum.values_by_number[0].name
    return name.removesuffix("UNSPECIFIED")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
