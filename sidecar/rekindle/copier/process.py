"""The keeper's handle on one copier process: spawn, send packets, take answers, kill, and know when it is gone.

Runs on the keeper's event loop. A copier that is spawned but not yet mapped takes packets already: they wait in the
socket. `on_gone` is called once, after the process has been reaped, so the memory it had mapped is let go of.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict

from rekindle_plugins.contract.errors import RekindleError
from rekindle_plugins.contract.geometry import Region

from rekindle.copier.memory import ArenaPart
from rekindle.copier.protocol import MAX_PACKET_BYTES, DoneRow, Operation, operation_of, unpack_done, unpack_failed


class CopierProcess:
    """One living copier. Create with `spawn`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        commands: socket.socket,
        on_ready: Callable[[], None],
        on_done: Callable[[list[DoneRow]], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self.pid = process.pid
        self.gone = asyncio.Event()
        self.is_ready = False
        """It has mapped everything and takes rows."""
        self._process = process
        self._commands = commands
        self._on_ready = on_ready
        self._on_done = on_done
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(process.pid)
        self.pidfd = self._pidfd
        """Readable when nothing of the process is left. Ours, and closed when it has been reaped."""
        self._reason = ""
        self._last_words = ""
        self._loop.add_reader(commands, self._readable)
        self._loop.add_reader(self._pidfd, self._reap)

    @staticmethod
    def spawn(
        region: Region,
        buffers: Sequence[int],
        arena_fd: int,
        part: ArenaPart,
        fence_fd: int,
        lock_fd: int,
        bandwidth: int,
        on_ready: Callable[[], None],
        on_done: Callable[[list[DoneRow]], None],
        on_gone: Callable[[str], None],
    ) -> tuple[CopierProcess, socket.socket]:
        """Starts a copier and returns it with the shim's end of its lifeline. Raises OSError when it cannot start.

        `lock_fd` is only inherited: the store stays locked until the last copier that could write to it is gone.
        `bandwidth` caps checkpointing, in bytes per second; 0 does not.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        shims, lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, lifeline:
            fds = {
                "buffers": list(buffers),
                "arena": arena_fd,
                "fence": fence_fd,
                "commands": theirs.fileno(),
                "lifeline": lifeline.fileno(),
            }
            spec = {  # in a file: a region of many runs is longer than an argument may be
                "parent_pid": os.getpid(),
                "region": region.to_json(),
                "part": asdict(part),
                "fds": fds,
                "bandwidth": bandwidth,
            }
            try:
                with os.fdopen(os.memfd_create("rekindle-copier-spec"), "w") as file:
                    json.dump(spec, file)
                    file.flush()
                    process = subprocess.Popen(
                        [sys.executable, "-m", "rekindle.copier", str(file.fileno())],
                        pass_fds=[
                            *(*buffers, arena_fd, fence_fd, lock_fd),
                            *(theirs.fileno(), lifeline.fileno(), file.fileno()),
                        ],
                        stdin=subprocess.DEVNULL,
                    )
            except BaseException:
                ours.close()
                shims.close()
                raise
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * MAX_PACKET_BYTES)
        return CopierProcess(process, ours, on_ready, on_done, on_gone), shims

    def send(self, packet: bytes) -> bool:
        """False when the copier's queue is full or it is going."""
        if self._reason:
            return False
        try:
            self._commands.send(packet, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            self.kill(f"its command socket failed: {error}")
            return False
        return True

    def kill(self, reason: str) -> None:
        """SIGKILL. The only way a copier is ever ended by us: it must not be able to refuse."""
        if not self._reason:
            self._reason = reason
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _readable(self) -> None:
        for _ in range(16):
            try:
                packet = self._commands.recv(MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._loop.remove_reader(self._commands)
                return
            try:
                operation = operation_of(packet)
                if operation is Operation.DONE:
                    self._on_done(unpack_done(packet))
                elif operation is Operation.READY:
                    self.is_ready = True
                    self._on_ready()
                elif operation is Operation.FAILED:
                    self._last_words = unpack_failed(packet)
            except (RekindleError, ValueError) as error:
                self.kill(f"it sent nonsense: {error}")
                return

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._readable()
        self._loop.remove_reader(self._commands)
        os.close(self._pidfd)
        code = self._process.wait()
        # From now on there is nothing to send to, or to kill.
        self._reason = self._reason or self._last_words or f"it ended with {code}"
        self._commands.close()
        self.gone.set()
        self._on_gone(self._reason)
