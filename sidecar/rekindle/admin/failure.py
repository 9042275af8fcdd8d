"""What an error means outside the process: the one place that maps codes to gRPC status and to exit codes.

Used by the admin server (errors to status), the admin client (status to errors) and the CLI (errors to exit codes).
Only functions that speak gRPC import protobuf, and only when called: an exit code must not cost that import.

    exit  meaning
    ----  -------------------------------------------------------------------
    0     ok
    1     a bug or a broken promise: of ours, or of a peer
    2     the command line or the configuration is wrong
    3     the other side is not there, or did not answer in time
    4     it is there, and degraded or not ready (a store that cannot be used)
    5     refused: wrong user, wrong version, not there, not now, or not what we can serve
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from rekindle_plugins.contract.errors import (
    ConfigError,
    DeviceError,
    GeometryError,
    IdentityError,
    InUseError,
    PeerRefusedError,
    ProtocolError,
    RecordError,
    RekindleError,
    StoreError,
    StoreFullError,
    UnavailableError,
    VersionError,
)

DETAILS_KEY = "grpc-status-details-bin"
"""The trailing metadata in which gRPC's libraries and tools look for a google.rpc.Status."""


class Exit(enum.IntEnum):
    """Exit codes of ``rekindle``; see the table above. ``run`` gives its engine's own instead."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    UNREACHABLE = 3
    DEGRADED = 4
    REFUSED = 5


class Outside(NamedTuple):
    """A code's two faces. ``grpc_status`` is the name of a ``grpc.StatusCode``."""

    grpc_status: str
    exit: Exit


OUTSIDE: Mapping[str, Outside] = {
    "internal": Outside("INTERNAL", Exit.INTERNAL),
    "transition": Outside("INTERNAL", Exit.INTERNAL),
    "protocol": Outside("INVALID_ARGUMENT", Exit.INTERNAL),
    "record": Outside("DATA_LOSS", Exit.INTERNAL),
    "geometry": Outside("INVALID_ARGUMENT", Exit.REFUSED),
    "version": Outside("FAILED_PRECONDITION", Exit.REFUSED),
    "identity": Outside("FAILED_PRECONDITION", Exit.REFUSED),
    "peer_refused": Outside("PERMISSION_DENIED", Exit.REFUSED),
    "store": Outside("FAILED_PRECONDITION", Exit.DEGRADED),
    "store_full": Outside("RESOURCE_EXHAUSTED", Exit.DEGRADED),
    "in_use": Outside("FAILED_PRECONDITION", Exit.REFUSED),
    "config": Outside("INVALID_ARGUMENT", Exit.USAGE),
    "unavailable": Outside("UNAVAILABLE", Exit.UNREACHABLE),
    "device": Outside("FAILED_PRECONDITION", Exit.DEGRADED),
    "not_found": Outside("NOT_FOUND", Exit.REFUSED),
    "request": Outside("INVALID_ARGUMENT", Exit.USAGE),
    "not_now": Outside("FAILED_PRECONDITION", Exit.REFUSED),
    "busy": Outside("RESOURCE_EXHAUSTED", Exit.REFUSED),
    "export_file": Outside("DATA_LOSS", Exit.REFUSED),
    "not_resumable": Outside("ABORTED", Exit.DEGRADED),
}

# The classes an error can come back as; any other code comes back as RekindleError with that code.
_CLASSES: Mapping[str, type[RekindleError]] = {
    cls.code: cls
    for cls in (
        ConfigError,
        DeviceError,
        GeometryError,
        IdentityError,
        PeerRefusedError,
        ProtocolError,
        RecordError,
        InUseError,
        StoreError,
        StoreFullError,
        UnavailableError,
        VersionError,
    )
}


def outside(error: RekindleError) -> Outside:
    """The status and exit code of an error. A code that nobody has mapped is a bug of ours, and internal."""
    return OUTSIDE.get(error.code, OUTSIDE["internal"])


def explain(error: RekindleError) -> str:
    """What the CLI prints: one line for the error, and one for the hint where there is one."""
    first = f"error: {error.op} {error.subject}: {error.problem}"
    return f"{first}\nhint: {error.hint}" if error.hint else first


def to_details(error: RekindleError, status_number: int) -> bytes:
    """The error as google.rpc.Status bytes for ``DETAILS_KEY``; ``status_number`` is the gRPC status' own."""
    from rekindle.admin.v1 import admin_pb2

    detail = admin_pb2.ErrorDetail(
        code=error.code, op=error.op, subject=error.subject, problem=error.problem, hint=error.hint
    )
    status = admin_pb2.RpcStatus(code=status_number, message=f"{error.op} {error.subject}: {error.problem}")
    status.details.add().Pack(detail)
    return status.SerializeToString()


def from_details(details: bytes) -> RekindleError | None:
    """The error a server packed with ``to_details``, as its own class; None where there is no such thing in it."""
    from google.protobuf.message import DecodeError

    from rekindle.admin.v1 import admin_pb2

    status, detail = admin_pb2.RpcStatus(), admin_pb2.ErrorDetail()
    try:
        status.ParseFromString(details)
        if not any(packed.Unpack(detail) for packed in status.details):
            return None
    except DecodeError:
        return None
    error = _CLASSES.get(detail.code, RekindleError)(detail.op, detail.subject, detail.problem, detail.hint)
    if error.code != detail.code:
        error.code = detail.code
    return error
