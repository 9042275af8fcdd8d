"""The proto keeps to buf's STANDARD rules. buf itself is run by `make lint-proto`; this needs nothing but the generated
code, and has the rules that a change of this one file could break.

    SERVICE_SUFFIX, RPC_PASCAL_CASE, RPC_REQUEST_STANDARD_NAME, RPC_RESPONSE_STANDARD_NAME, RPC_REQUEST_RESPONSE_UNIQUE,
    MESSAGE_PASCAL_CASE, FIELD_LOWER_SNAKE_CASE, ONEOF_LOWER_SNAKE_CASE, ENUM_PASCAL_CASE, ENUM_VALUE_PREFIX,
    ENUM_VALUE_UPPER_SNAKE_CASE, ENUM_ZERO_VALUE_SUFFIX, ENUM_FIRST_VALUE_ZERO, ENUM_NO_ALLOW_ALIAS,
    PACKAGE_VERSION_SUFFIX, PACKAGE_DIRECTORY_MATCH, FIELD_NOT_REQUIRED, IMPORT_NO_WEAK
"""

from __future__ import annotations

import inspect
import re
from collections import Counter

import pytest
from rekindle.admin.client import AdminClient
from rekindle.admin.service import AdminService
from rekindle.admin.v1 import admin_pb2 as pb

PASCAL = re.compile(r"[A-Z][A-Za-z0-9]*")
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
UPPER = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
FILE = pb.DESCRIPTOR
(SERVICE,) = FILE.services_by_name.values()
VERBS = [method.name for method in SERVICE.methods]


def test_package_and_folder_have_the_version() -> None:
    assert FILE.package == "rekindle.admin.v1"
    assert FILE.name == "rekindle/admin/v1/admin.proto"
    assert SERVICE.name.endswith("Service")


def test_every_rpc_has_messages_of_its_own_with_its_name() -> None:
    for method in SERVICE.methods:
        assert PASCAL.fullmatch(method.name)
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"
    used = Counter(kind.name for method in SERVICE.methods for kind in (method.input_type, method.output_type))
    assert max(used.values()) == 1


@pytest.mark.parametrize("message", FILE.message_types_by_name.values(), ids=lambda message: message.name)
def test_messages_fields_and_oneofs_are_named_as_they_should(message: object) -> None:
    assert PASCAL.fullmatch(message.name)  # type: ignore[attr-defined]
    names = [field.name for field in (*message.fields, *message.oneofs)]  # type: ignore[attr-defined]
    assert [name for name in names if not SNAKE.fullmatch(name.lstrip("_"))] == []
    assert not any(field.is_required for field in message.fields)  # type: ignore[attr-defined]


@pytest.mark.parametrize("enum", FILE.enum_types_by_name.values(), ids=lambda enum: enum.name)
def test_enums_are_prefixed_begin_with_unspecified_and_have_no_alias(enum: object) -> None:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"  # type: ignore[attr-defined]
    values = enum.values  # type: ignore[attr-defined]
    assert (values[0].number, values[0].name) == (0, f"{prefix}UNSPECIFIED")
    assert all(value.name.startswith(prefix) and UPPER.fullmatch(value.name) for value in values)
    assert len({value.number for value in values}) == len(values)


def test_every_verb_is_served() -> None:
    assert [verb for verb in VERBS if verb not in vars(AdminService)] == []


def test_every_verb_can_be_called_by_the_client() -> None:
    source = inspect.getsource(AdminClient)
    assert [verb for verb in VERBS if f'"{verb}"' not in source] == []
