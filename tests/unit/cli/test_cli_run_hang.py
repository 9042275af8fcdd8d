"""``rekindle run`` beside a sidecar of the test's own making, which says that the engine hangs."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from driving.polling import until
from rekindle.admin.server import AdminServer
from rekindle.cli.engine_watch import EngineWatch
from status_samples import ENGINE, STATUS, FakeSource

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}
NO_HANG = replace(STATUS, engines=(replace(ENGINE, hung_s=None),))
ENGINE_THAT_ENDS_WELL = """
    import os, pathlib, signal, sys, time
    starts = pathlib.Path(os.environ["FOLDER"], "starts")
    with starts.open("a") as file:
        print(os.getpid(), file=file)
    if len(starts.read_text().splitlines()) > 1:
        sys.exit(0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "run").mkdir(mode=0o700)
    yield tmp_path
    starts = tmp_path / "starts"
    for pid in map(int, starts.read_text().split()) if starts.exists() else ():
        assert not Path(f"/proc/{pid}").exists(), "an engine was left behind"


async def supervise(folder: Path, *flags: str) -> asyncio.subprocess.Process:
    command = ["-m", "rekindle.cli", "run", "--run-dir", f"{folder}/run", "--store-dir", f"{folder}/store", *flags]
    command += ["--restart-delay", "0.05", "--http", "off", "--", sys.executable, "-c"]
    program = textwrap.dedent(ENGINE_THAT_ENDS_WELL)
    environ = CLEAN | {"FOLDER": str(folder)}
    return await asyncio.create_subprocess_exec(
        sys.executable, *command, program, stderr=asyncio.subprocess.PIPE, env=environ
    )


async def first_start(folder: Path) -> int:
    """The first engine's process."""
    starts = folder / "starts"
    text = await asyncio.to_thread(until, "the engine", lambda: starts.exists() and starts.read_text(), 30.0)
    return int(str(text).split()[0])


def test_an_engine_that_hangs_is_restarted_also_when_it_ends_with_0(folder: Path) -> None:
    async def main() -> tuple[int, str]:
        source, run = FakeSource(NO_HANG), None
        server = AdminServer(source, folder / "run" / "admin.sock")
        await server.start()
        try:
            run = await supervise(folder, "--hang-timeout", "1s")
            pid = await first_start(folder)
            hung = replace(ENGINE, pid=pid, hung_s=1e6, note="it hangs: no step for a long time")
            source.value = replace(STATUS, engines=(replace(ENGINE, pid=os.getpid()), hung))
            _, said = await asyncio.wait_for(run.communicate(), 30)
            assert run.returncode is not None
            return run.returncode, said.decode()
        finally:
            if run is not None and run.returncode is None:
                run.terminate()
                await run.wait()
            await server.stop(grace_s=0)

    code, said = asyncio.run(main())
    assert code == 0, said
    assert ": it hangs: no step for a long time; ending it" in said
    assert "engine exited with 0 after " in said
    assert len((folder / "starts").read_text().split()) == 2


@pytest.mark.parametrize("trouble", ["another engine's hang", "an error", "nobody there"])
def test_nothing_else_that_a_sidecar_says_or_fails_to_say_is_a_hang(folder: Path, trouble: str) -> None:
    async def main() -> None:
        source = FakeSource(replace(STATUS, engines=(replace(ENGINE, pid=os.getpid()), replace(ENGINE, pid=0))))
        source.error = ValueError("a bug") if trouble == "an error" else None
        server = AdminServer(source, folder / "admin.sock")
        if trouble != "nobody there":
            await server.start()
        try:
            watch = EngineWatch(folder / "admin.sock", os.getsid(0) + 1, 0.0)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(watch.until_hung(), 1.0)
        finally:
            await server.stop(grace_s=0)

    asyncio.run(main())
