"""SIGKILL to one engine of those that up.py has brought up: `python kill.py prefill` or `python kill.py decode`."""

from __future__ import annotations

import os
import signal
import sys

from rekindle.admin.client import AdminClient
from up import ROLES, STATE


def main() -> None:
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if role not in ROLES:
        raise SystemExit(f"which one? {' or '.join(ROLES)}")
    with AdminClient(STATE / role / "admin.sock") as client:
        engines = [engine for engine in client.status().engines if engine.state == "running"]
    if not engines:
        raise SystemExit(f"the {role} engine is not running: it may just be starting again")
    os.kill(engines[0].pid, signal.SIGKILL)
    print(f"killed the {role} engine (process {engines[0].pid}); `rekindle run` starts another")


if __name__ == "__main__":
    main()
