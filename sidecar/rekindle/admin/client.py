"""A synchronous client of the admin API, for the CLI and for tests. Every call has a deadline.

Errors come back as what the server raised, class and hint included. gRPC is imported when a client is made.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from rekindle_plugins.contract.errors import RekindleError, UnavailableError

from rekindle.admin import failure
from rekindle.lifecycle.status import KeeperStatus


class AdminClient:
    """One connection to one sidecar; made at the first call. Close it, or use it as a context manager.

    Args:
        socket: the sidecar's ``admin.sock``.
        deadline_s: how long a call may take, connecting included.
    """

    def __init__(self, socket: Path, deadline_s: float = 5.0) -> None:
        self._socket = socket.absolute()
        self._deadline_s = deadline_s
        self._channel: Any = None

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection. Safe to call twice."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def status(self) -> KeeperStatus:
        """What the sidecar knows now.

        Raises:
            UnavailableError: nobody listens at the socket, or no answer came in time.
            RekindleError: what the server raised.
        """
        from rekindle.admin import convert
        from rekindle.admin.v1 import admin_pb2

        response = self._call("GetStatus", admin_pb2.GetStatusRequest())
        return convert.from_proto(response.status)

    def _call(self, verb: str, request: Any) -> Any:
        if not self._socket.exists():  # spares a second of imports to learn nothing more
            raise self._unavailable(verb, "there is no such socket")
        import grpc

        from rekindle.admin.v1 import admin_pb2_grpc

        if self._channel is None:
            address = "unix:" + quote(str(self._socket))
            # Several clients of one process must not share a connection that outlives a sidecar's restart.
            self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        stub: Any = admin_pb2_grpc.AdminServiceStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            return getattr(stub, verb)(request, timeout=self._deadline_s)
        except grpc.RpcError as error:
            raise self._failed(verb, error) from None

    def _failed(self, verb: str, error: Any) -> RekindleError:
        for key, value in error.trailing_metadata() or ():
            if key == failure.DETAILS_KEY and (raised := failure.from_details(value)) is not None:
                return raised
        status = error.code().name
        if status == "DEADLINE_EXCEEDED":
            return self._unavailable(verb, f"no answer within {self._deadline_s:g} s")
        if status == "UNAVAILABLE":
            return self._unavailable(verb, "nobody answers there")
        return RekindleError("call", f"{verb} at {self._socket}", f"{status}: {error.details()}")

    def _unavailable(self, verb: str, problem: str) -> UnavailableError:
        hint = f"is `rekindle serve` running? wanted {self._socket}"
        return UnavailableError("call", f"{verb} at {self._socket}", problem, hint)
