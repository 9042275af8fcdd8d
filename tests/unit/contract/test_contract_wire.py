"""The attach protocol against peers that send anything: typed errors, and no descriptor is ever left behind."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle_plugins.contract import (
    API_VERSION,
    Channel,
    PeerRefusedError,
    ProtocolError,
    UnavailableError,
    VersionError,
)
from rekindle_plugins.contract.wire import MAX_FDS, MAX_PACKET_BYTES, SCHEMA, check_peer, connect

EXAMPLES = {str: "text", int: 3, list: [], dict: {}, bool: True, (int, float): 0.5}
WRONG: list[Any] = [None, "text", 3, 0.5, [], {}, True, float("nan"), float("inf")]


def fields_of(type_: str) -> dict[str, Any]:
    return {name: EXAMPLES[kind] for name, kind in SCHEMA[type_].items()}


def packet(body: bytes, fds: int = 0, magic: bytes = b"RKDL", major: int = API_VERSION[0], minor: int = 0) -> bytes:
    return struct.pack("<4sHHHH", magic, major, minor, fds, 0) + body


class Wire:
    """A channel, and the raw socket of its peer."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.channel = Channel(ours, "the peer")

    def deliver(self, data: bytes, fds: int = 0) -> None:
        """Sends raw bytes with so many descriptors."""
        source = os.open("/dev/null", os.O_RDONLY)
        sent = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [source] * fds))] if fds else []
        self.peer.sendmsg([data], sent)
        os.close(source)

    def close(self) -> None:
        self.channel.close()
        self.peer.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    made.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_PACKET_BYTES)
    yield made
    made.close()


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("type_", SCHEMA)
def test_every_message_survives_its_way(wire: Wire, type_: str) -> None:
    fields = fields_of(type_)
    Channel(wire.peer).send(type_, **fields, unknown="a higher minor may add fields")
    message = wire.channel.receive()
    assert message is not None
    assert (message.type, message.minor) == (type_, API_VERSION[1])
    assert {name: message[name] for name in fields} == fields


@pytest.mark.parametrize("fds", [0, 2])
@pytest.mark.parametrize(("type_", "name"), [(type_, name) for type_ in SCHEMA for name in SCHEMA[type_]])
def test_a_field_of_a_wrong_type_or_none_is_refused_and_named(wire: Wire, type_: str, name: str, fds: int) -> None:
    kind = SCHEMA[type_][name]
    wrong = [
        v for v in WRONG if not isinstance(v, kind) or isinstance(v, bool) != (kind is bool) or v != v or v == 1e999
    ]
    before = open_fds()
    for value in wrong:
        body = json.dumps({"type": type_, **fields_of(type_), name: value}).encode()
        wire.deliver(packet(body, fds), fds)
        with pytest.raises(ProtocolError, match=rf"{type_}\.{name}"):
            wire.channel.receive()
    body = json.dumps({"type": type_, **{k: v for k, v in fields_of(type_).items() if k != name}}).encode()
    wire.deliver(packet(body, fds), fds)
    with pytest.raises(ProtocolError, match=name):
        wire.channel.receive()
    assert open_fds() == before


GOOD = json.dumps({"type": "announce", "lost": 1}).encode()
BAD_PACKETS: dict[str, tuple[bytes, int]] = {
    "no header": (b"R", 1),
    "half a header": (packet(b"")[:11], 1),
    "another magic": (packet(GOOD, 1, magic=b"HTTP"), 1),
    "no body": (packet(b"", 1), 1),
    "no object": (packet(b"[1]", 1), 1),
    "no type": (packet(b"{}", 1), 1),
    "a type that is a list": (packet(b'{"type": []}', 1), 1),
    "an unknown type": (packet(b'{"type": "bye"}', 1), 1),
    "half a body": (packet(GOOD[:-2], 1), 1),
    "not UTF-8": (packet(b'{"type": "\xff"}', 1), 1),
    "nested too deeply": (packet(b"[" * 100_000, 1), 1),
    "a number too long": (packet(b'{"type": "announce", "lost": ' + b"9" * 5000 + b"}", 1), 1),
    "fewer descriptors than announced": (packet(GOOD, 2), 1),
    "more descriptors than announced": (packet(GOOD, 0), 1),
    "none of the announced descriptors": (packet(GOOD, 1), 0),
    "too many descriptors": (packet(GOOD, MAX_FDS + 2), MAX_FDS + 2),
    "larger than a packet may be": (packet(GOOD + b" " * MAX_PACKET_BYTES, 1), 1),
}


@pytest.mark.parametrize("what", BAD_PACKETS)
def test_a_bad_packet_is_a_protocol_error_and_leaks_nothing(wire: Wire, what: str) -> None:
    data, fds = BAD_PACKETS[what]
    before = open_fds()
    wire.deliver(data, fds)
    with pytest.raises(ProtocolError, match="the peer"):
        wire.channel.receive()
    assert open_fds() == before


def test_another_major_version_is_refused_with_both_versions(wire: Wire) -> None:
    before = open_fds()
    wire.deliver(packet(GOOD, 1, major=7, minor=3), 1)
    with pytest.raises(VersionError, match=rf"7\.3.*{API_VERSION[0]}\.{API_VERSION[1]}"):
        wire.channel.receive()
    assert open_fds() == before


def test_a_higher_minor_version_is_understood(wire: Wire) -> None:
    wire.deliver(packet(GOOD, minor=9))
    message = wire.channel.receive()
    assert message is not None
    assert message.minor == 9


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.binary(min_size=1, max_size=200) | st.binary(max_size=200).map(packet), fds=st.integers(0, 3))
def test_random_bytes_are_a_message_or_a_typed_error_and_leak_nothing(data: bytes, fds: int) -> None:
    before = open_fds()
    wire = Wire()
    wire.deliver(data, fds)
    with pytest.raises((ProtocolError, VersionError)):
        wire.channel.receive()
    wire.close()
    assert open_fds() == before


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cut=st.integers(1, 400), flip=st.integers(0, 400), fds=st.integers(0, 2))
def test_a_truncated_or_changed_packet_leaks_nothing(cut: int, flip: int, fds: int) -> None:
    whole = bytearray(packet(json.dumps({"type": "hello", **fields_of("hello")}).encode(), fds))
    whole[flip % len(whole)] ^= 0x20
    before = open_fds()
    wire = Wire()
    wire.deliver(bytes(whole[:cut]), fds)
    try:
        message = wire.channel.receive()
    except (ProtocolError, VersionError):
        pass
    else:
        assert message is not None
        message.close_fds()
    wire.close()
    assert open_fds() == before


def test_the_end_of_a_connection_is_none(wire: Wire) -> None:
    with pytest.raises(BlockingIOError):
        wire.channel.receive()
    wire.peer.close()
    assert wire.channel.receive() is None
    with pytest.raises(UnavailableError):
        wire.channel.send("announce", lost=1)


def test_a_message_larger_than_a_packet_is_not_sent(wire: Wire) -> None:
    with pytest.raises(ProtocolError, match="exceed"):
        wire.channel.send("refuse", code="x" * MAX_PACKET_BYTES, message="", hint="")


def send_until_full(channel: Channel) -> int:
    sent = 0
    while True:
        try:
            channel.send("announce", lost=sent)
        except BlockingIOError:
            return sent
        sent += 1


def test_a_full_queue_is_told_and_nothing_was_sent(wire: Wire) -> None:
    sent = send_until_full(wire.channel)
    received = [json.loads(wire.peer.recv(4096)[12:])["lost"] for _ in range(sent)]
    assert received == list(range(sent))
    wire.peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.peer.recv(1)


def test_nobody_listening_is_unavailable_and_leaks_nothing(tmp_path: Any) -> None:
    before = open_fds()
    with pytest.raises(UnavailableError, match="rekindle serve"):
        connect(str(tmp_path / "attach.sock"), 0.1)
    assert open_fds() == before


def test_a_peer_of_another_uid_is_refused(wire: Wire) -> None:
    assert check_peer(wire.peer, frozenset([os.getuid()])) == os.getpid()
    with pytest.raises(PeerRefusedError, match=f"its uid is {os.getuid()}, wanted 4242"):
        check_peer(wire.peer, frozenset([4242]))
