"""Peers on the attach socket that are no engine of ours: correct in all but what a test makes wrong."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rekindle_plugins.contract.fence import Fence
from rekindle_plugins.contract.geometry import GroupGeometry, Region, Run
from rekindle_plugins.contract.identity import Identity
from rekindle_plugins.contract.journal import JournalWriter
from rekindle_plugins.contract.plugin import PluginInfo
from rekindle_plugins.contract.sharedmem import create_sealed

PAGES, PAGE_TOKENS, PAGE_BYTES = 8, 4, 4096
IDENTITY = Identity.of(
    {"backend": "impostor", "model": "m", "model_files": "f", "geometry": "g", "parallel": "p", "hash_scheme": "h"}
)


def packet(body: Any, fd_count: int = 0, magic: bytes = b"RKDL", major: int = 1, minor: int = 0) -> bytes:
    return struct.pack("<4sHHHH", magic, major, minor, fd_count, 0) + json.dumps(body).encode()


class Wire:
    """A raw connection. `answer` gives the sidecar's next message; None once it has hung up."""

    def __init__(self, run_dir: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(10)
        self.sock.connect(str(run_dir / "attach.sock"))

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)

    def send(self, type_: str, fds: Sequence[int] = (), **fields: Any) -> None:
        self.send_raw(packet({"type": type_, **fields}, len(fds)), fds)

    def answer(self) -> dict[str, Any] | None:
        for _ in range(8):
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 1 << 18, 8)
            except ConnectionResetError:  # told once when we had sent more than was read; what was said to us follows
                continue
            for fd in fds:
                os.close(fd)
            return json.loads(data[12:]) if data else None
        return None

    def until_hung_up(self) -> dict[str, Any] | None:
        """Reads to the end; returns the refusal, if there was one."""
        refusal = None
        while (message := self.answer()) is not None:
            refusal = message if message["type"] == "refuse" else refusal
        return refusal

    def close(self) -> None:
        self.sock.close()


class Impostor:
    """An engine of one rank: its memory, and the hellos that a sidecar would accept."""

    def __init__(self, run_dir: Path) -> None:
        self.instance = f"impostor-{uuid.uuid4().hex}"
        self.journal = JournalWriter(PAGE_TOKENS, 64)
        self.fence = Fence.create(PAGES)
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.memory = create_sealed("impostor-kv", PAGES * PAGE_BYTES)
        self.leader, self.rank = Wire(run_dir), Wire(run_dir)

    @property
    def leader_fds(self) -> list[int]:
        return [self.journal.fd, self.fence.fd, self.wake]

    def common(self, role: str) -> dict[str, Any]:
        return {
            "role": role,
            "instance": self.instance,
            "plugin": PluginInfo("impostor", "1", "no engine").to_json(),
            "engine_version": "1",
            "world_size": 1,
        }

    def leader_hello(self) -> dict[str, Any]:
        return self.common("leader") | {
            "identity": dict(IDENTITY.fields),
            "page_count": PAGES,
            "group_tokens": [PAGE_TOKENS],
            "purge": [],
        }

    def rank_hello(self) -> dict[str, Any]:
        return self.common("rank") | {"region": self.region().to_json()}

    def region(self, pages: int = PAGES, stride: int = PAGE_BYTES, size: int = PAGES * PAGE_BYTES) -> Region:
        return Region(0, "shm", pages, (size,), (GroupGeometry(PAGE_TOKENS, (Run(0, 0, stride, PAGE_BYTES),)),))

    def attach(self) -> dict[str, Any]:
        """All of it, correctly. Returns the welcome."""
        self.rank.send("hello", [self.memory], **self.rank_hello())
        self.leader.send("hello", self.leader_fds, **self.leader_hello())
        welcome = self.leader.answer()
        assert welcome is not None
        assert welcome["type"] == "welcome", welcome
        return welcome

    def close(self) -> None:
        self.leader.close()
        self.rank.close()
        self.journal.close()
        self.fence.close()
        os.close(self.wake)
        os.close(self.memory)
