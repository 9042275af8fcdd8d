"""KeeperStatus and the admin API's messages say the same, whichever way."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from rekindle.admin import convert
from rekindle.admin.v1 import admin_pb2 as pb
from rekindle.lifecycle.machine import State
from rekindle.lifecycle.status import EngineStatus, KeeperStatus, PageCounters, RecoveryReport, StoreStatus
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


@pytest.mark.parametrize("kind", [KeeperStatus, EngineStatus, PageCounters, RecoveryReport, StoreStatus])
def test_values_and_messages_have_the_same_fields(kind: type) -> None:
    message = pb.DESCRIPTOR.message_types_by_name[kind.__name__]
    assert [field.name for field in fields(kind)] == [field.name for field in message.fields]
