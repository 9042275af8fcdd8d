"""The stream proxy as a child of ``rekindle serve``: started with it, restarted when it dies, stopped with it.

Runs on the keeper's event loop and does next to nothing there: one small packet a second is read, and one is sent when
an engine comes or goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rekindle_plugins.contract.errors import RekindleError, UnavailableError

from rekindle.config import Config, HttpAddress

LOG = logging.getLogger("rekindle.proxy")

_START_S = 20.0
_STOP_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_PACKET_BYTES = 1 << 16
_MOST_TOLD = 8
"""A packet has to hold them."""


class ProxyChild:
    """One proxy, over any number of processes."""

    def __init__(self, config: Config, on_silent: Callable[[bool], None]) -> None:
        """`on_silent`: told when the engine's server stops to answer requests that wait for it, and when it answers."""
        assert config.proxy is not None
        self._on_silent = on_silent
        self._config = config
        self._route = config.proxy
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._address: HttpAddress | None = None
        self._counts: Mapping[str, Any] = {}
        self._channel: socket.socket | None = None
        self._serving: Sequence[tuple[str, Mapping[str, Any] | None]] = ()

    def told(self) -> Mapping[str, Any]:
        """The living process's last word: ``proxy.counts.Counts`` as JSON. Empty before the first one."""
        return self._counts

    def tell(self, serving: Sequence[tuple[str, Mapping[str, Any] | None]]) -> None:
        """What the attached engines tell of their servers: plugin and `client.LeaderConfig.serving` of each."""
        # Engines that say the same are told of once, and of very many different ones it is enough that they differ.
        distinct = [told for index, told in enumerate(serving) if told not in serving[:index]]
        self._serving = distinct[:_MOST_TOLD]
        if self._channel is not None:
            with contextlib.suppress(OSError):  # a proxy that dies: the next one is told
                self._channel.send(json.dumps({"serving": [list(told) for told in self._serving]}).encode())

    async def start(self) -> None:
        """Returns when it listens.

        Raises:
            UnavailableError: it could not start, or its address is taken.
        """
        channel = await self._start()
        self._keeping = asyncio.create_task(self._keep(channel), name="proxy")

    async def stop(self) -> None:
        """Within the time that streams have to end, and ``_STOP_S``. Safe to call twice."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), self._config.proxy_drain_s + _STOP_S)
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(theirs.fileno()), pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL
            )
        try:
            first = await asyncio.wait_for(_receive(ours), _START_S)
        except asyncio.TimeoutError:
            first = {}
        if "listening" not in first:
            ours.close()
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            if "failed" in first:
                raise UnavailableError(*first["failed"])
            raise UnavailableError("start", "the stream proxy", f"it ended with {self._process.returncode}")
        self._address = HttpAddress(*first["listening"])
        LOG.info("proxy started", extra={"pid": self._process.pid, "port": self._address.port})
        self._channel = ours
        self.tell(self._serving)
        return ours

    def _command(self, fd: int) -> list[str]:
        # A restarted one has to listen where the first one did, also where the kernel chose the port.
        listen = self._address or self._route.listen
        argv = [sys.executable, "-m", "rekindle.cli.proxy", "--host", listen.host, "--port", str(listen.port)]
        argv += ["--engine-url", self._route.engine_url, "--wait-s", str(self._config.proxy_wait_s)]
        argv += ["--drain-s", str(self._config.proxy_drain_s)]
        if self._config.proxy_api_key_file is not None:
            argv += ["--api-key-file", str(self._config.proxy_api_key_file)]
        argv += [] if self._config.proxy_seeds else ["--no-seeds"]
        argv += ["--sidecar-fd", str(fd), "--log-level", self._config.log_level]
        argv += ["--log-json"] if self._config.log_json else []
        return argv + [part for folder in self._config.plugin_dirs for part in ("--plugin-dir", str(folder))]

    def _hear(self, counts: Mapping[str, Any]) -> None:
        was_silent, is_silent = self._counts.get("silent", False), counts.get("silent", False)
        self._counts = counts
        if was_silent != is_silent:
            self._on_silent(is_silent)

    async def _keep(self, channel: socket.socket) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            with channel:
                while message := await _receive(channel):
                    self._hear(message.get("counts", self._counts))
                    pause_s = _FIRST_PAUSE_S
            self._channel = None
            self._hear({**self._counts, "silent": False})
            assert self._process is not None
            code = await self._process.wait()
            LOG.warning("proxy ended", extra={"code": code, "restart_in_s": pause_s})
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                try:
                    channel = await self._start()
                    break
                except RekindleError as error:
                    LOG.warning("proxy not started", extra={"problem": str(error)})


async def _receive(channel: socket.socket) -> dict[str, Any]:
    """The next message; empty at the end, and for what is none."""
    try:
        data = await asyncio.get_running_loop().sock_recv(channel, _PACKET_BYTES)
        message = json.loads(data) if data else {}
        return message if isinstance(message, dict) else {}
    except (OSError, ValueError):
        return {}
