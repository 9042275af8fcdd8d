"""Noticing the death of the process behind a connection, even where a forked child of it holds the connection open.

Used by `Peer`, on the keeper's event loop. The end of the connection remains what usually tells of a death. It comes
late only when a process that was forked without exec keeps the descriptor: the shim closes it after Python's own forks
(`client.link`), a fork in C it cannot see.

No process number is involved, so none can have been given to somebody else meanwhile: the kernel remembers the process
itself with the connection, and hands out a pidfd for it (SO_PEERPIDFD, Linux 6.5). It need not share our PID namespace.
Opening the number that SO_PEERCRED tells instead could watch a stranger; older kernels therefore have the end of the
connection alone.
"""

from __future__ import annotations

import socket

_SO_PEERPIDFD = 77  # <asm-generic/socket.h>; Python does not name it


def peer_pidfd(sock: socket.socket) -> int | None:
    """A pidfd of the process that connected, which becomes readable when it ends. The caller closes it.

    None where the kernel has no such thing, or the process is gone already: then the connection's end tells.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return None
