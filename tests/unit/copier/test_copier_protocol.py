"""Packets between the keeper and a copier."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle.copier.protocol import (
    MAX_PACKET_BYTES,
    MAX_ROWS,
    DoneRow,
    LoadRow,
    Operation,
    SaveRow,
    Status,
    operation_of,
    pack_done,
    pack_loads,
    pack_ready,
    pack_saves,
    unpack_done,
    unpack_loads,
    unpack_saves,
)
from rekindle_plugins.contract import ProtocolError

u32, u64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
checksums = st.binary(min_size=16, max_size=16)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    saves=st.lists(st.builds(SaveRow, u32, u32, u32, u64), max_size=9),
    loads=st.lists(st.builds(LoadRow, u32, u32, u32, u64, checksums), max_size=9),
    dones=st.lists(st.builds(DoneRow, u32, u32, st.sampled_from(Status), checksums), max_size=9),
)
def test_rows_survive_their_way(saves: list[SaveRow], loads: list[LoadRow], dones: list[DoneRow]) -> None:
    for operation, packet in {
        Operation.SAVE: pack_saves(saves),
        Operation.LOAD: pack_loads(loads),
        Operation.DONE: pack_done(dones),
        Operation.READY: pack_ready(),
    }.items():
        assert operation_of(packet) is operation
    assert unpack_saves(pack_saves(saves)) == saves
    assert unpack_loads(pack_loads(loads)) == loads
    assert unpack_done(pack_done(dones)) == dones


def test_a_full_packet_fits() -> None:
    row = LoadRow(0, 0, 0, 0, bytes(16))
    assert len(pack_loads([row] * MAX_ROWS)) <= MAX_PACKET_BYTES


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_random_bytes_are_a_whole_packet_or_a_protocol_error(data: bytes) -> None:
    try:
        operation = operation_of(data)
    except ProtocolError:
        return
    assert operation is not Operation.READY or len(data) == 4


@pytest.mark.parametrize("packet", [b"", b"\1", pack_saves([SaveRow(0, 0, 0, 0)])[:-1], pack_ready() + b"x", b"\7" * 4])
def test_half_a_packet_is_a_protocol_error(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        operation_of(packet)
