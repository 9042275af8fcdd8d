"""The attach protocol: small JSON messages with file descriptors on a Unix SOCK_SEQPACKET socket.

A message is one packet, so it is never read by halves, descriptors stay with their message, and the end of a process is
seen as an empty packet at once. JSON because both sides are untrusting and the rate is low: pages are announced through
the journal, not here.

    offset  size  field
         0     4  magic "RKDL"
         4     2  contract major     peers of another major refuse each other, naming both
         6     2  contract minor     each side speaks the lower minor
         8     2  descriptors that come with the packet
        10     2  reserved
        12     …  a JSON object with "type"

One engine makes one connection for its leader (the scheduling process: journal and fence) and one for each rank (the
process that owns a region). They find each other by `instance`, which is new with every engine start.

    shim → sidecar                                      sidecar → shim
    hello    who I am; leader: + journal, fence,        welcome  + presence filter (leader)
             wake eventfd; rank: + its buffers          refuse   why not; the connection ends
    plan     which pages could come back?               pages    answer to plan, in parts
    fill     put these pages there                      copier   + lifeline, pidfd: a copier that may fill pages exists
    reset    the cache is void, and the identity with   filled   answer to fill
             it                                         announce records were lost: announce live pages again
    requests which request began which chain (to a
             sidecar of minor 1 or higher only)

A leader's hello may say more than it must: `serving` is an object for its plugin's dialect (`dialect.Dialect.told`),
which the keeper hands on unread. A sidecar that does not know it ignores it.

The lifeline is one end of a socket pair whose other end only that copier holds; one byte sent on it asks the copier to
go. That the copier is gone and can no longer write into the engine's pages is proved by its pidfd. The lifeline's end
alone (from a sidecar that sends no pidfd) proves it for ordinary memory, not for a GPU's.
"""

from __future__ import annotations

import array
import contextlib
import json
import math
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekindle_plugins.contract.errors import PeerRefusedError, ProtocolError, UnavailableError, VersionError

MAGIC = b"RKDL"
API_VERSION = (1, 1)
MAX_PACKET_BYTES = 128 * 1024
MAX_FDS = 250
_HEADER = struct.Struct("<4sHHHH")

_STR, _INT, _LIST, _DICT, _BOOL, _NUM = str, int, list, dict, bool, (int, float)
SCHEMA: Mapping[str, Mapping[str, Any]] = {
    "hello": {"role": _STR, "instance": _STR, "plugin": _DICT, "engine_version": _STR, "world_size": _INT},
    "welcome": {"state": _STR, "stored_pages": _INT, "restore_budget_s": _NUM},
    "refuse": {"code": _STR, "message": _STR, "hint": _STR},
    "plan": {"plan_id": _INT, "max_pages": _INT},
    "pages": {"plan_id": _INT, "pages": _LIST, "last": _BOOL},
    "fill": {"fill_id": _INT, "pages": _LIST},
    "filled": {"fill_id": _INT, "pages": _LIST},
    "copier": {"rank": _INT},
    "reset": {"identity": _DICT},
    "announce": {"lost": _INT},
    "requests": {"requests": _LIST},
    "report": {"restored": _INT, "tokens": _INT, "rejected": _DICT, "seconds": _NUM},
}
"""Fields that a message must have, with their JSON types. Unknown fields are ignored (a higher minor may add them)."""


@dataclass(frozen=True)
class Message:
    type: str
    fields: Mapping[str, Any]
    fds: tuple[int, ...] = ()
    minor: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def close_fds(self) -> None:
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)


def duplicate(fds: Sequence[int]) -> tuple[int, ...]:
    """Duplicates of all of them. Raises OSError, with none of them open, when there is no room for all."""
    with contextlib.ExitStack() as undo:
        copies: list[int] = []
        for fd in fds:
            copies.append(os.dup(fd))
            undo.callback(os.close, copies[-1])
        undo.pop_all()
        return tuple(copies)


@dataclass
class Channel:
    """One end of an attach connection. Not thread-safe for receiving; sends are single packets."""

    sock: socket.socket
    peer: str = "peer"
    api: tuple[int, int] = field(default=API_VERSION)

    def send(self, type_: str, fds: Sequence[int] = (), **fields: Any) -> None:
        """Sends one packet.

        Raises BlockingIOError when a non-blocking socket's queue is full (nothing was sent), UnavailableError when the
        peer is gone, ProtocolError when the message is larger than a packet may be.
        """
        body = json.dumps({"type": type_, **fields}, separators=(",", ":")).encode()
        packet = _HEADER.pack(MAGIC, *self.api, len(fds), 0) + body
        if len(packet) > MAX_PACKET_BYTES:
            raise ProtocolError("send", f"{type_} to {self.peer}", f"{len(packet)} bytes exceed {MAX_PACKET_BYTES}")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise
        except OSError as error:
            raise UnavailableError("send", f"{type_} to {self.peer}", str(error)) from error

    def receive(self) -> Message | None:
        """One message, or None at the end of the connection.

        Raises BlockingIOError / TimeoutError as the socket does, ProtocolError and VersionError for a bad packet. No
        descriptor leaks in any of these cases.
        """
        try:
            packet, fds, flags = self._receive_packet()
        except (BlockingIOError, TimeoutError):
            raise
        except OSError:
            return None
        try:
            if not packet and not fds:
                return None
            return self._parse(packet, fds, flags)
        except BaseException:
            Message("", {}, tuple(fds)).close_fds()
            raise

    def _receive_packet(self) -> tuple[bytes, list[int], int]:
        space = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        packet, ancillary, flags, _ = self.sock.recvmsg(MAX_PACKET_BYTES + 1, space, socket.MSG_CMSG_CLOEXEC)
        fds: list[int] = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
                fds.extend(received)
        return packet, fds, flags

    def _parse(self, packet: bytes, fds: list[int], flags: int) -> Message:
        subject = f"message from {self.peer}"
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(packet) > MAX_PACKET_BYTES:
            raise ProtocolError("receive", subject, f"larger than {MAX_PACKET_BYTES} bytes or {MAX_FDS} descriptors")
        if len(packet) < _HEADER.size or packet[:4] != MAGIC:
            raise ProtocolError("receive", subject, f"starts with {packet[:8]!r}, not an attach message")
        _, major, minor, fd_count, _ = _HEADER.unpack_from(packet)
        if major != API_VERSION[0]:
            raise VersionError(
                "receive",
                subject,
                f"peer speaks contract {major}.{minor}, we speak {API_VERSION[0]}.{API_VERSION[1]}",
                "use an engine-side package and a sidecar of the same major version",
            )
        if fd_count != len(fds):
            raise ProtocolError("receive", subject, f"{len(fds)} descriptors arrived, {fd_count} were announced")
        try:
            body = json.loads(packet[_HEADER.size :])
        except (ValueError, RecursionError) as error:
            raise ProtocolError("receive", subject, f"the body is not JSON: {error}") from error
        return Message(_check(body, subject), body, tuple(fds), minor)

    def close(self) -> None:
        self.sock.close()


def _check(body: Any, subject: str) -> str:
    type_ = body.get("type") if isinstance(body, dict) else None
    schema = SCHEMA.get(type_) if isinstance(type_, str) else None
    if schema is None or not isinstance(type_, str):
        raise ProtocolError("receive", subject, f"unknown type {type_!r}")
    for name, kind in schema.items():
        value = body.get(name)
        fits = isinstance(value, kind) and (kind is _BOOL or not isinstance(value, bool))
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise ProtocolError("receive", subject, f"{type_}.{name} is {value!r:.80}")
    return type_


def connect(path: str, timeout_s: float) -> Channel:
    """Engine side. Raises UnavailableError when nobody listens there.

    Connecting to a Unix socket can wait only for the listener's backlog; the timeout bounds that too.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    sock.settimeout(timeout_s)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_PACKET_BYTES)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise UnavailableError("attach", path, str(error) or "no answer", "is `rekindle serve` running?") from error
    return Channel(sock, "sidecar")


def peer_uid(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end, from the kernel (SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return pid, uid


def check_peer(sock: socket.socket, allowed: frozenset[int]) -> int:
    """The peer's pid. Raises PeerRefusedError when its uid is not allowed."""
    pid, uid = peer_uid(sock)
    if uid not in allowed:
        wanted = ", ".join(str(u) for u in sorted(allowed))
        raise PeerRefusedError(
            "attach", f"process {pid}", f"its uid is {uid}, wanted {wanted}", "run the sidecar under the engine's uid"
        )
    return pid
