"""The proxy's process: ``python -m rekindle.cli.proxy``, started by ``cli.proxy_child`` with a socket to its sidecar.

The socket carries JSON: where it listens, then its counts once a second; and what the attached engines tell of their
servers, whenever that changes. Its end is the sidecar's end.

Nobody new is let in then, so that the next one's proxy gets the port, and the streams that are there are brought to
their end: for up to ``_ORPHAN_S`` when the sidecar has just gone; on SIGTERM, when it is about to end, for the time
that a setting gives, and only while there is an engine. Whoever is left is hung up on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rekindle_plugins.contract.errors import RekindleError

from rekindle.backends import discover
from rekindle.cli import logs
from rekindle.cli.engine_key import EngineKey
from rekindle.config import HttpAddress
from rekindle.proxy.limits import Limits
from rekindle.proxy.server import ProxyServer

LOG = logging.getLogger("rekindle.proxy")

_TELL_S = 1.0
_PACKET_BYTES = 1 << 20
_ORPHAN_S = 900.0
_DRAIN_POLL_S = 0.1


def main() -> int:
    """Exit code 0 after a signal or the sidecar's end, 1 where it could not start (the sidecar was told why)."""
    import uvloop

    order = _parse()
    logs.set_up(order.log_level, order.log_json)
    # What the imports left is never garbage, and streams leave no cycles: to look for them seldom is enough.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    code: int = uvloop.run(_run(order))
    return code


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rekindle-proxy")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine-url", required=True)
    parser.add_argument("--wait-s", type=float, required=True)
    parser.add_argument("--drain-s", type=float, required=True)
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--no-seeds", action="store_true")
    parser.add_argument("--sidecar-fd", type=int, required=True)
    parser.add_argument("--plugin-dir", type=Path, action="append", default=[])
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-json", action="store_true")
    return parser.parse_args()


async def _run(order: argparse.Namespace) -> int:
    sidecar = socket.socket(fileno=order.sidecar_fd)
    sidecar.setblocking(False)
    backends = discover(tuple(order.plugin_dir))
    limits = Limits(wait_s=order.wait_s)
    key = EngineKey(order.api_key_file)
    try:
        key.check()
        where = HttpAddress(order.host, order.port)
        server = ProxyServer(where, order.engine_url, backends.adapters, limits, key.read, not order.no_seeds)
        address = await server.start()
    except RekindleError as error:
        _tell(sidecar, {"failed": [error.op, error.subject, error.problem, error.hint]})
        return 1
    LOG.info("proxy listening", extra={"host": address.host, "port": address.port, "pid": os.getpid()})
    _tell(sidecar, {"listening": list(address)})
    stopped = _on_sigterm()
    teller = asyncio.create_task(_keep_telling(sidecar, server))
    try:
        await asyncio.wait((stopped, teller), return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await _drain(server, "the sidecar is gone", _ORPHAN_S, stopped.done)
        if stopped.done():
            await _drain(server, "the sidecar ends", order.drain_s, lambda: not server.has_engine)
    finally:
        teller.cancel()
        await server.stop()
        backends.close()
    return 0


def _on_sigterm() -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    loop.add_signal_handler(signal.SIGTERM, stop)
    # A Ctrl-C goes to the whole terminal; the sidecar decides when we stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return stopped


async def _keep_telling(sidecar: socket.socket, server: ProxyServer) -> None:
    """Ends with the sidecar."""
    hearing = asyncio.create_task(_keep_hearing(sidecar, server))
    told: Any = None
    while not hearing.done():
        counts = server.counts.to_json()
        if counts != told:
            told = counts
            _tell(sidecar, {"counts": counts})
        await asyncio.wait((hearing,), timeout=_TELL_S)
    hearing.result()


async def _keep_hearing(sidecar: socket.socket, server: ProxyServer) -> None:
    """Ends with the sidecar, and with what it knew of the engines."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while packet := await loop.sock_recv(sidecar, _PACKET_BYTES):
            server.told([(plugin, serving) for plugin, serving in json.loads(packet)["serving"]])
    server.told(())


def _tell(sidecar: socket.socket, message: dict[str, Any]) -> None:
    # A sidecar that does not read now reads the next one: they are totals.
    with contextlib.suppress(OSError):
        sidecar.send(json.dumps(message).encode())


async def _drain(server: ProxyServer, why: str, limit_s: float, is_over: Callable[[], bool]) -> None:
    """Lets nobody in, and returns when all that were there have their ends, or it is over."""
    await server.stop_listening()
    LOG.info("proxy drains", extra={"why": why, "in_flight": server.counts.in_flight, "limit_s": limit_s})
    deadline_s = asyncio.get_running_loop().time() + limit_s
    while server.counts.in_flight and not is_over() and asyncio.get_running_loop().time() < deadline_s:
        await asyncio.sleep(_DRAIN_POLL_S)


if __name__ == "__main__":
    sys.exit(main())
