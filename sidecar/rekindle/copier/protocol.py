"""Packets between the keeper and a copier, on a SOCK_SEQPACKET socket pair. Both are ours, and both still check.

    packet   u8 operation, u8 reserved, u16 row count, then rows
    save     slot u32, page u32, group u32, reserved u32, epoch u64                     keeper → copier
    load     the same, then checksum 16 B (XXH3-128 of this rank's part)                keeper → copier
    done     slot u32, page u32, status u32, reserved u32, checksum 16 B (of a save)    copier → keeper
    ready    no rows: regions and arena are mapped                                      copier → keeper
    failed   UTF-8 text, its length in the place of the row count: why it ends          copier → keeper

Rows are answered in the order they were sent, every one of them, once.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from rekindle_plugins.contract.errors import ProtocolError

MAX_ROWS = 256
CHECKSUM_BYTES = 16
MAX_PACKET_BYTES = 64 * 1024
MAX_REASON_BYTES = 2048
NO_CHECKSUM = bytes(CHECKSUM_BYTES)
_HEADER = struct.Struct("<BBH")
_SAVE = struct.Struct("<IIIIQ")
_LOAD = struct.Struct("<IIIIQ16s")
_DONE = struct.Struct("<IIII16s")


class Operation(enum.IntEnum):
    SAVE = 1
    LOAD = 2
    DONE = 3
    READY = 4
    FAILED = 5


class Status(enum.IntEnum):
    OK = 0
    FENCE_MOVED = 1
    """The page was handed out again before or during the copy. Nothing was published, nothing was overwritten."""
    CHECKSUM = 2
    """The stored bytes are not what was checkpointed."""
    OUT_OF_RANGE = 3


@dataclass(frozen=True)
class SaveRow:
    slot: int
    page_id: int
    group: int
    epoch: int


@dataclass(frozen=True)
class LoadRow:
    slot: int
    page_id: int
    group: int
    epoch: int
    checksum: bytes


@dataclass(frozen=True)
class DoneRow:
    slot: int
    page_id: int
    status: Status
    checksum: bytes


def pack_saves(rows: Sequence[SaveRow]) -> bytes:
    body = b"".join(_SAVE.pack(r.slot, r.page_id, r.group, 0, r.epoch) for r in rows)
    return _HEADER.pack(Operation.SAVE, 0, len(rows)) + body


def pack_loads(rows: Sequence[LoadRow]) -> bytes:
    body = b"".join(_LOAD.pack(r.slot, r.page_id, r.group, 0, r.epoch, r.checksum) for r in rows)
    return _HEADER.pack(Operation.LOAD, 0, len(rows)) + body


def pack_done(rows: Sequence[DoneRow]) -> bytes:
    body = b"".join(_DONE.pack(r.slot, r.page_id, r.status, 0, r.checksum) for r in rows)
    return _HEADER.pack(Operation.DONE, 0, len(rows)) + body


def pack_ready() -> bytes:
    return _HEADER.pack(Operation.READY, 0, 0)


def pack_failed(reason: str) -> bytes:
    """Only the beginning of a long reason is sent."""
    text = reason.encode(errors="replace")[:MAX_REASON_BYTES]
    return _HEADER.pack(Operation.FAILED, 0, len(text)) + text


def operation_of(packet: bytes) -> Operation:
    """Raises ProtocolError for a packet of no known operation or of the wrong size."""
    sizes = {Operation.SAVE: _SAVE.size, Operation.LOAD: _LOAD.size, Operation.DONE: _DONE.size, Operation.READY: 0}
    sizes[Operation.FAILED] = 1
    try:
        operation, _, count = _HEADER.unpack_from(packet)
        operation = Operation(operation)
        whole = _HEADER.size + count * sizes[operation] == len(packet)
    except (struct.error, ValueError) as error:
        raise ProtocolError("read", "copier packet", f"{packet[:8]!r} is no packet") from error
    if not whole:
        raise ProtocolError(
            "read", "copier packet", f"{len(packet)} bytes do not hold {count} rows of {operation.name}"
        )
    return operation


def unpack_saves(packet: bytes) -> list[SaveRow]:
    return [SaveRow(s, p, g, e) for s, p, g, _, e in _SAVE.iter_unpack(packet[_HEADER.size :])]


def unpack_loads(packet: bytes) -> list[LoadRow]:
    return [LoadRow(s, p, g, e, c) for s, p, g, _, e, c in _LOAD.iter_unpack(packet[_HEADER.size :])]


def unpack_done(packet: bytes) -> list[DoneRow]:
    return [DoneRow(s, p, Status(st), c) for s, p, st, _, c in _DONE.iter_unpack(packet[_HEADER.size :])]


def unpack_failed(packet: bytes) -> str:
    """The reason, on one line and without anything that could not be logged."""
    text = packet[_HEADER.size :].decode(errors="replace")
    return "".join(letter if letter.isprintable() else " " for letter in text)
