"""The admin API's server: gRPC on ``<run_dir>/admin.sock``, with health, reflection and channelz.

Runs in the keeper's process, on its event loop; gRPC adds threads of its own that run none of our code. Started
after the keeper, which holds the exclusive lock on the run dir: a socket that lies there already is a dead
sidecar's, and is unlinked. Memory: health and reflection cost 0.1 MB beyond gRPC's own 13 MB (measured), so all
are always on. The verbs are in ``admin.service``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc.aio
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from rekindle_plugins.contract.errors import UnavailableError

from rekindle.admin.guard import SERVICE, FailuresWithDetails
from rekindle.admin.service import AdminService
from rekindle.admin.source import AdminSource
from rekindle.admin.v1 import admin_pb2_grpc

__all__ = ["SERVICE", "AdminServer", "target"]

LOG = logging.getLogger("rekindle.admin")
CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name

_HEALTH_PERIOD_S = 1.0
_LARGEST_REQUEST_BYTES = 64 << 10


class AdminServer:
    """One server on one socket. Not restartable: make another."""

    def __init__(self, source: AdminSource, socket: Path) -> None:
        self._source = source
        self._socket = socket
        self._server: Any = None
        self._health: Any = None
        self._health_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind the socket (mode 0600) and serve.

        Raises:
            UnavailableError: the path is taken by something that is no socket, or cannot be bound. Nothing runs then.
        """
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=(FailuresWithDetails(),),
            options=[("grpc.max_receive_message_length", _LARGEST_REQUEST_BYTES)],
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(  # type: ignore[no-untyped-call]
            AdminService(self._source), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        channelz.add_channelz_servicer(self._server)
        services = (SERVICE, health.SERVICE_NAME, CHANNELZ, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, self._server)
        try:
            self._bind()
            await self._tell_health()
            await self._server.start()
        except BaseException:
            # gRPC's threads outlive a server that is dropped without a stop, and hang the process at its exit.
            await self._server.stop(None)
            self._server = None
            raise
        self._health_task = asyncio.create_task(self._keep_health(), name="admin-health")
        LOG.info("admin api listening", extra={"socket": str(self._socket)})

    async def stop(self, grace_s: float = 1.0) -> None:
        """Answer what is in flight within ``grace_s``, cut the rest, and remove the socket. Safe to call twice."""
        if self._health_task is not None:
            self._health_task.cancel()
            await asyncio.gather(self._health_task, return_exceptions=True)
            self._health_task = None
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s)
            self._server = None
            self._socket.unlink(missing_ok=True)

    def _bind(self) -> None:
        subject = f"admin socket {self._socket}"
        try:
            if not stat.S_ISSOCK(self._socket.lstat().st_mode):
                raise UnavailableError("bind", subject, "something else is there, and no socket", "remove it")
            self._socket.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UnavailableError("bind", subject, error.strerror or str(error), "check --run-dir") from None
        # The umask is the process's: nothing awaits in here, so that nobody else's file is made under it.
        before = os.umask(0o077)
        try:
            self._server.add_insecure_port(target(self._socket))
        except RuntimeError as error:
            raise UnavailableError("bind", subject, str(error), "is the run dir writable?") from None
        finally:
            os.umask(before)

    async def _tell_health(self) -> None:
        try:
            ready = self._source.status().ready
        except Exception as error:  # whatever it is, it is not ready; GetStatus tells the caller what it is
            LOG.warning("status failed", extra={"error": f"{type(error).__name__}: {error}"})
            ready = False
        word = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", SERVICE):
            await self._health.set(service, word)

    async def _keep_health(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_PERIOD_S)
            await self._tell_health()


def target(socket: Path) -> str:
    """The gRPC address of a Unix socket. It is a URI, so that odd characters in a path are escaped."""
    return "unix:" + quote(os.path.abspath(socket))
