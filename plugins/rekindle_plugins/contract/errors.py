"""The one error family of Rekindle.

Every error says what was being done, to what, what was wrong and what to do next.
It is mapped to gRPC status and exit codes in exactly one place (``rekindle.admin.failure``).
"""

from __future__ import annotations


class RekindleError(Exception):
    """Base of all typed errors.

    Args:
        op: the operation, a verb phrase ("restore", "attach").
        subject: what it was done to ("region r3", "arena /…/ab12.arena").
        problem: what was wrong, with wanted and got where that is known.
        hint: what the reader can do about it; empty where nothing can be done.
    """

    code = "internal"

    def __init__(self, op: str, subject: str, problem: str, hint: str = "") -> None:
        self.op = op
        self.subject = subject
        self.problem = problem
        self.hint = hint
        text = f"{op} {subject}: {problem}"
        super().__init__(f"{text} ({hint})" if hint else text)


class ProtocolError(RekindleError):
    """A peer sent something malformed, oversized or out of order. The connection is dropped."""

    code = "protocol"


class VersionError(RekindleError):
    """The two sides speak contract versions that do not fit together."""

    code = "version"


class PeerRefusedError(RekindleError):
    """The peer is of another uid, or the other side refused us."""

    code = "peer_refused"


class GeometryError(RekindleError):
    """A region is smaller than its geometry claims, or the geometry contradicts itself."""

    code = "geometry"


class RecordError(RekindleError):
    """A journal record cannot be true (page, group, length or checksum). The record is dropped."""

    code = "record"


class IdentityError(RekindleError):
    """Stored pages belong to another identity, or the identity could not be established."""

    code = "identity"


class StoreError(RekindleError):
    """The store cannot be created, opened or written."""

    code = "store"


class StoreFullError(StoreError):
    """There is no room: on the file system at start, or no evictable slot later."""

    code = "store_full"


class InUseError(RekindleError):
    """Another process has it: a directory, an address."""

    code = "in_use"


class ConfigError(RekindleError):
    """A setting is unknown, malformed or contradicts another."""

    code = "config"


class UnavailableError(RekindleError):
    """The other side is not there, or did not answer in time."""

    code = "unavailable"


class DeviceError(RekindleError):
    """GPU memory cannot be shared, or the GPU's driver refused or failed.

    Args:
        result: the driver's own number for what happened (CUresult); 0 where it was not the driver's word.
    """

    code = "device"

    def __init__(self, op: str, subject: str, problem: str, hint: str = "", result: int = 0) -> None:
        super().__init__(op, subject, problem, hint)
        self.result = result
