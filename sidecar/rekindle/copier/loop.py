"""The copier's loop: take a packet of rows, do them, answer. One process per region, disposable at any instant.

It ends when the keeper is gone (end of the command socket, or the parent-death signal), when the shim asks it to on its
lifeline, or by SIGKILL. The engine's end is not its business: the keeper decides between salvage and release.

What it says before it ends by itself for want of its memory or its GPU is one packet with the reason.

Threads: one, and those of the memory's own (`copier.memory`, `copier.cuda`).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from rekindle_plugins.contract.errors import DeviceError
from rekindle_plugins.contract.geometry import Region
from rekindle_plugins.contract.sharing import SHM

from rekindle.copier.memory import ArenaPart, HostMemory, PageMemory
from rekindle.copier.pace import Pace
from rekindle.copier.protocol import (
    MAX_PACKET_BYTES,
    DoneRow,
    Operation,
    SaveRow,
    operation_of,
    pack_done,
    pack_failed,
    pack_ready,
    unpack_loads,
    unpack_saves,
)

CHUNK_ROWS = 16
PR_SET_PDEATHSIG = 1


class Copier:
    """Serves one keeper until told to go."""

    def __init__(self, memory: PageMemory, commands: socket.socket, lifeline: socket.socket, pace: Pace) -> None:
        self._memory = memory
        self._commands = commands
        self._lifeline = lifeline
        self._pace = pace

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._commands, select.POLLIN)
        poll.register(self._lifeline, select.POLLIN)
        self._commands.send(pack_ready())
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._lifeline.fileno() in ready:
                if self._asked_to_go():
                    return
                poll.unregister(self._lifeline)
                self._pace.lift()  # the engine is dead, and it is salvaged against a budget
            if self._commands.fileno() in ready:
                packet = self._commands.recv(MAX_PACKET_BYTES)
                if not packet:
                    return
                if not self._serve(packet):
                    return

    def _serve(self, packet: bytes) -> bool:
        """False when the shim asked us to go between two chunks of loads."""
        operation = operation_of(packet)
        if operation is Operation.SAVE:
            self._commands.send(pack_done(self._save(unpack_saves(packet))))
            return True
        rows = unpack_loads(packet)
        for start in range(0, len(rows), CHUNK_ROWS):
            if self._asked_to_go():
                return False
            self._commands.send(pack_done(self._memory.load_rows(rows[start : start + CHUNK_ROWS])))
        return True

    def _save(self, rows: Sequence[SaveRow]) -> list[DoneRow]:
        """All at once, or, under a cap, page by page: each as late as the cap demands."""
        if not self._pace.is_capped:
            return self._memory.save_rows(rows)
        done: list[DoneRow] = []
        for row in rows:
            self._wait_for_pace()
            self._pace.spend(self._memory.part_bytes(row.group), time.monotonic())
            done += self._memory.save_rows([row])
        return done

    def _wait_for_pace(self) -> None:
        """Waits until the next bytes are due, or for the engine's end, which lifts the cap."""
        wait_s = self._pace.wait_s(time.monotonic())
        poll = select.poll()  # select(2) knows 1,024 descriptors, and the keeper may have more
        poll.register(self._lifeline, select.POLLIN)
        if wait_s and poll.poll(wait_s * 1000):
            self._pace.lift()

    def _asked_to_go(self) -> bool:
        """True when the shim has sent its byte. Its end-of-file (the engine died) is not a request."""
        try:
            return self._lifeline.recv(16, socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return False
        except OSError:
            return False


def die_with_parent(parent_pid: int) -> None:
    """SIGKILL for us when the keeper dies, also when it died before this call."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def main(spec_fd: int) -> NoReturn:
    """Entry of the copier process. `spec_fd` is a file of JSON from `rekindle.copier.process.spawn`.

    It ends without the interpreter's finalization, which would close the lifeline before the process, with its helper
    thread and its mappings, is gone: the lifeline's end must prove just that.
    """
    try:
        with os.fdopen(spec_fd) as file:
            file.seek(0)
            spec = json.load(file)
        _run(spec)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _run(spec: dict[str, Any]) -> NoReturn:
    die_with_parent(spec["parent_pid"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fds = spec["fds"]
    commands = socket.socket(fileno=fds["commands"])
    try:
        region, part = Region.from_json(spec["region"]), ArenaPart(**spec["part"])
        memory = open_memory(region, fds["buffers"], fds["arena"], part, fds["fence"])
        lifeline = socket.socket(fileno=fds["lifeline"])
        Copier(memory, commands, lifeline, Pace(spec.get("bandwidth", 0))).run()
        os._exit(0)
    except DeviceError as error:
        commands.send(pack_failed(str(error)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        print(f"rekindle copier: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # at once: a driver that has failed may not come back from its own clean-up


def open_memory(region: Region, buffers: list[int], arena_fd: int, part: ArenaPart, fence_fd: int) -> PageMemory:
    """The memory of a region, by its kind. Raises OSError, ValueError, or DeviceError of a GPU's driver."""
    if region.kind == SHM:
        return HostMemory(region, buffers, arena_fd, part, fence_fd)
    from rekindle.copier.cuda import CudaMemory  # the driver's bindings are needed, and there, only for GPUs

    return CudaMemory(region, buffers, arena_fd, part, fence_fd)
