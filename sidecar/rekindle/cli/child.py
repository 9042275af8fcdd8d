"""A child process that leads its own session, and takes its whole group along when it ends.

Used by the supervisor, on its event loop; one thread per child waits for its end. The dead leader stays unreaped
until its group has been killed: while it is a zombie, the kernel gives its number to nobody else, so that the kill
can only hit its own group.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from rekindle_plugins.contract.errors import ConfigError

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_POLL_S = 0.01
_GROUP_TIMEOUT_S = 10.0


def adopt_orphans() -> None:
    """Make this process the parent of grandchildren whose parent died, so that it can reap them. Linux; best effort."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Child:
    """One started process. stdin, stdout and stderr are the supervisor's own. Made on a running event loop."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._began_s = time.monotonic()
        self._ended = asyncio.create_task(self._end(), name=f"child-{process.pid}")

    @classmethod
    def start(cls, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start it in a session of its own: a Ctrl-C at the terminal reaches the supervisor only.

        Raises:
            ConfigError: there is no such program, or it may not be run.
        """
        try:
            return cls(subprocess.Popen(list(arguments), env=dict(environment), start_new_session=True))
        except OSError as error:
            problem, hint = error.strerror or str(error), "check the command and the PATH"
            raise ConfigError("start", arguments[0], problem, hint) from None

    @property
    def pid(self) -> int:
        """Also the number of its group."""
        return self._process.pid

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began_s

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to every process of the group; nothing happens where none is left."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # PermissionError: all that is left changed its user
            pass

    @property
    def has_ended(self) -> bool:
        """Whether ``wait`` would return at once."""
        return self._ended.done()

    async def wait(self) -> int:
        """Wait for the leader and for its group to be gone. May be called, and cancelled, any number of times.

        What is left of the group when the leader ends is SIGKILLed. Returns the leader's exit code, or minus the
        signal's number. A process that outlives SIGKILL by ``_GROUP_TIMEOUT_S`` (it hangs in the kernel) is left
        behind; ``group_is_alive`` tells.
        """
        return await asyncio.shield(self._ended)

    async def _end(self) -> int:
        await asyncio.to_thread(os.waitid, os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self.signal_group(signal.SIGKILL)
        code = self._process.wait()
        deadline_s = time.monotonic() + _GROUP_TIMEOUT_S
        while self.group_is_alive() and time.monotonic() < deadline_s:
            await asyncio.sleep(_POLL_S)
        return code

    def group_is_alive(self) -> bool:
        """Whether the group still has a member. Reaps those that became our children."""
        try:
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def outcome(code: int) -> str:
    """``exited with 3`` or ``was killed by SIGKILL``, from what ``wait`` returned."""
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
