"""One pod: a directory, a store in node memory, one sidecar and some engines, and the end of all of them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from driving.nano import NanoEngine
from driving.process import session_members
from driving.sidecar import Sidecar


class Pod:
    """Use as a context manager: on leaving, everything is killed, and a process left behind is an error."""

    def __init__(self, **settings: str) -> None:
        # Short paths: a Unix socket's may have 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="rk-"))
        self.store_dir = Path(tempfile.mkdtemp(prefix="rk-", dir="/dev/shm"))
        self.sidecar = Sidecar(self.directory, self.store_dir, **settings)
        self._engines: list[NanoEngine] = []

    def engine(self, start: bool = True, plugin: bool | str = True, **settings: int) -> NanoEngine:
        name = f"engine{len(self._engines)}"
        engine = NanoEngine(name, self.directory, self.sidecar.run_dir, plugin, **settings)
        self._engines.append(engine)
        if start:
            engine.start()
        return engine

    def close(self) -> None:
        """Ends everything. The sidecar's copiers have to end with it, by themselves."""
        started = [*self.sidecar.sessions, *(process for engine in self._engines for process in engine.sessions)]
        try:
            for process in started:
                process.kill_session()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            shutil.rmtree(self.store_dir, ignore_errors=True)
        left = [pid for process in started for pid in session_members(process.pid)]
        assert not left, f"processes left behind: {left}"

    def logs(self) -> str:
        """The ends of all logs, for a failed test's report."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-6000:]}" for path in self.directory.glob("*.log")
        )

    def __enter__(self) -> Pod:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.logs())
        self.close()
