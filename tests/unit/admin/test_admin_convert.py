"""KeeperStatus and the admin API's messages say the same, whichever way."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import pytest
from rekindle.admin import convert
from rekindle.admin.v1 import admin_pb2 as pb
from rekindle.lifecycle import inventory, progress
from rekindle.lifecycle import status as status_module
from rekindle.lifecycle.machine import State
from rekindle.lifecycle.status import KeeperStatus
from status_samples import EMPTY, ENGINE, RECOVERY, STATUS


@pytest.mark.parametrize("status", [STATUS, EMPTY], ids=["full", "empty"])
def test_a_status_survives_the_wire(status: KeeperStatus) -> None:
    wire = convert.to_proto(status).SerializeToString()
    assert convert.from_proto(pb.KeeperStatus.FromString(wire)) == status


def test_times_that_have_not_happened_stay_none_and_zero_stays_zero() -> None:
    recovery = replace(RECOVERY, salvage_s=0.0, down_s=None, restore_s=None, started_instance=None)
    back = convert.from_proto(convert.to_proto(replace(STATUS, last_recovery=recovery))).last_recovery
    assert back == recovery


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_number(state: State) -> None:
    status = replace(STATUS, engines=(replace(ENGINE, state=state.value),))
    message = convert.to_proto(status)
    assert message.engines[0].state != pb.ENGINE_STATE_UNSPECIFIED
    assert convert.from_proto(message) == status


def test_a_state_that_is_not_known_reads_unspecified() -> None:
    message = convert.to_proto(replace(STATUS, engines=(replace(ENGINE, state="dancing"),)))
    assert convert.from_proto(message).engines[0].state == "unspecified"
    message.engines[0].state = 99  # type: ignore[assignment]  # a newer server's
    assert convert.from_proto(message).engines[0].state == "unspecified"


EVERY_KIND = [
    value
    for module in (status_module, inventory, progress)
    for value in vars(module).values()
    if isinstance(value, type) and is_dataclass(value) and value.__module__ == module.__name__
]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_values_and_messages_have_the_same_fields(kind: type) -> None:
    message = pb.DESCRIPTOR.message_types_by_name[kind.__name__]
    assert {field.name for field in fields(kind)} == {field.name for field in message.fields}


@pytest.mark.parametrize(
    "value",
    [
        progress.Verification(3, 4, (progress.DamagedPage("ab", "cd", 1, (0, 2)),), 1, 2, 0.5),
        progress.RestorePlan("ab", 1, 2, 3, {"checksum": 4}, ("model: …",), 0.25),
        inventory.PageDetail(
            inventory.Page("ab", "00", "cd", 1, 2, 3, 4, 5.5, True, 6, True), ("ef", "01"), (1,), (7, 8)
        ),
        inventory.Session("ab", "abcd", "ef", 1, 2, 3, 4.5, True, 5, (1, 2), "cmpl-1"),
        inventory.Plugin("nano", "here", False, problem="no"),
        status_module.Event(1, 2.5, "info", "mode", {"to": "paused"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_answer_survives_the_wire(value: object) -> None:
    wire = convert.message_of(value).SerializeToString()
    message = getattr(pb, type(value).__name__).FromString(wire)
    assert convert.value_of(type(value), message) == value
