"""A peer's death is noticed even while a forked child of it keeps the connection open."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys

from rekindle.keeper.peer import Peer
from rekindle.keeper.pidfd import peer_pidfd

CONNECTS_AND_FORKS = """
import os, socket, sys, time
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


def test_a_process_that_dies_closes_its_connection_though_a_child_holds_it(tmp_path: object) -> None:
    path = f"{tmp_path}/sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", CONNECTS_AND_FORKS, path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())

    async def main() -> str:
        sock, _ = listener.accept()
        closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        peer = Peer(sock, process.pid, lambda _, __: None, lambda _, why: closed.set_result(why), lambda _: None)
        process.kill()
        why = await asyncio.wait_for(closed, 20)
        assert not peer.is_open
        return why

    try:
        assert asyncio.run(main()) == "its process ended"
        os.kill(child, 0)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.kill(child, signal.SIGKILL)
        listener.close()


def test_a_socket_without_a_peer_has_no_pidfd() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as alone:
        assert peer_pidfd(alone) is None
