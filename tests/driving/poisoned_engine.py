"""A nano engine with a bug: a request with MAGIC in its prompt kills it at once. `python poisoned_engine.py …`."""

from __future__ import annotations

import os
import signal
import sys

from nano_engine.__main__ import main
from nano_engine.engine import Engine
from nano_engine.request import Request

MAGIC = b"!poison!"
_submit = Engine.submit


def submit(self: Engine, request: Request) -> None:
    if MAGIC in bytes(request.tokens):
        os.kill(os.getpid(), signal.SIGKILL)
    _submit(self, request)


if __name__ == "__main__":
    Engine.submit = submit  # type: ignore[method-assign]
    sys.exit(main())
