"""examples/disaggregated, as its README says: brought up by one command behind vLLM's router, both engines killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from disaggregated_driving import PatientStream
from driving import until
from driving.process import Process
from vllm_driving import ROOT, Launcher, free_port, tokens_of

pytestmark = [pytest.mark.disaggregated, pytest.mark.timeout(1500)]

EXAMPLE = ROOT / "examples" / "disaggregated"
UP_S = 500.0
TOKENS = 3000
"""Of an answer that is cut in its middle, and read as far as is wanted."""


class Router:
    """Where the clients go."""

    def __init__(self) -> None:
        first = free_port()  # the example takes the seven behind it, too: below the ephemeral ones, hardly ever in use
        self.port = first
        self.directory = Path(tempfile.mkdtemp(prefix="rk-"))
        self.environ = os.environ | {"TMPDIR": str(self.directory), "PYTHONPATH": str(EXAMPLE)}
        self.process: Process | None = None

    def start(self, launcher: Launcher) -> None:
        command = [sys.executable, str(EXAMPLE / "up.py"), "--port", str(self.port), "--python", launcher.python]
        command += ["--nixl", os.environ["NIXL_PATH"], "--router", os.environ["VLLM_ROUTER"]]
        self.process = Process(command, self.environ, self.directory / "up.log")
        self.process.wait_for_line("serving model m at", UP_S)

    def kill_engine(self, role: str) -> None:
        command = [sys.executable, str(EXAMPLE / "kill.py"), role]
        subprocess.run(command, env=self.environ, check=True, timeout=60)

    def logs(self) -> str:
        found = sorted(self.directory.rglob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-5000:]}" for path in found)

    def close(self) -> None:
        if self.process is not None:
            self.process.signal(signal.SIGTERM)
            self.process.wait(120.0)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def router(launcher: Launcher) -> Iterator[Router]:
    router = Router()
    try:
        router.start(launcher)
        yield router
    finally:
        print(router.logs())
        router.close()


def test_clients_of_the_router_see_both_engines_die_and_nothing_of_it(router: Router) -> None:
    prompt = tokens_of(1, 300)
    expected = PatientStream(router, prompt, 400).finish().tokens
    stream = PatientStream(router, [*prompt], TOKENS)
    stream.when(20)
    for role in ("decode", "prefill"):
        router.kill_engine(role)
    seen = len(stream.tokens)
    assert not stream.is_complete, "they were to be killed in the middle"
    until("the answer to go on", lambda: len(stream.tokens) >= max(400, seen + 100) or stream.error, UP_S)
    assert not stream.error
    assert stream.tokens[:400] == expected
    stream.hang_up()
    other = tokens_of(2, 300)
    assert len(PatientStream(router, other, 20).finish().tokens) == 20
