"""`python -m rekindle.conformance.child PARENT FD DRIVER ORDERS`: one engine start by its driver, as the kit says.

Lines of JSON on the socket FD. The kit sends {"call", "args"}; answers are {"value"} or {"error", "kind", "trace"}, one
a call and in order. Between them come the watch's events. The socket's end, or the kit's death, ends the child.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from dataclasses import asdict, is_dataclass
from typing import Any

from rekindle.conformance.child.orders import Orders
from rekindle.conformance.child.watch import Watch

PR_SET_PDEATHSIG = 1
CALLS = frozenset({"start", "submit", "step", "answer", "reset_cache", "close", "changes"})


class Conversation:
    """The kit's end of the line. Events may come from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines = sock.makefile("r", encoding="utf-8")
        self._sending = threading.Lock()

    def tell(self, message: dict[str, Any]) -> None:
        with self._sending:
            self._sock.sendall(json.dumps(message).encode() + b"\n")

    def serve(self, driver_reference: str, watch: Watch) -> None:
        driver: Any = None
        for line in self._lines:
            order = json.loads(line)
            try:
                if driver is None:
                    driver = _make(driver_reference)
                value = _carry_out(driver, watch, order["call"], order["args"])
            except Exception as error:
                told = "".join(traceback.format_exception_only(type(error), error)).strip()
                self.tell({"error": told, "kind": type(error).__name__, "trace": traceback.format_exc(limit=-8)})
            else:
                self.tell({"value": value})


def _make(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)()


def _carry_out(driver: Any, watch: Watch, call: str, args: list[Any]) -> Any:
    if call not in CALLS:
        raise ValueError(f"no call of a driver: {call}")
    if call == "changes":
        return list(driver.changes)
    value = getattr(driver, call)(*args)
    watch.check(f"by the end of {call}")
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def main() -> None:
    parent, fd, reference, orders = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    conversation = Conversation(socket.socket(fileno=int(fd)))
    conversation.serve(reference, Watch(Orders.from_json(json.loads(orders)), conversation.tell))


if __name__ == "__main__":
    main()
