"""podman with a store of its own, so that nothing of the machine is touched and all of it can be thrown away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from containers import python_root

SETTINGS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def missing() -> str:
    """What this machine lacks for it; "" when nothing is."""
    lacks = [program for program in ("podman", "runc", "catatonit", "ldd") if shutil.which(program) is None]
    if lacks:
        return f"no {', no '.join(lacks)}"
    return "" if os.geteuid() == 0 else "containers are tested as root"


class Podman:
    """Calls podman. Raises AssertionError, with what it said, when it fails."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        (home / "containers.conf").write_text(SETTINGS)
        self._environ = {**os.environ, "CONTAINERS_CONF": str(home / "containers.conf")}
        self._run_root = tempfile.mkdtemp(prefix="rk-")  # podman allows it 50 characters
        self._flags = ["--root", str(home / "root"), "--runroot", self._run_root]

    def __call__(self, *arguments: str, given: bytes | None = None, timeout_s: float = 300.0) -> str:
        command = ["podman", *self._flags, *arguments]
        done = subprocess.run(
            command, input=given, capture_output=True, env=self._environ, timeout=timeout_s, check=False
        )
        said = done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"podman {' '.join(arguments[:3])} failed with {done.returncode}:\n{said[-3000:]}"
        return done.stdout.decode(errors="replace").strip()

    def inspect(self, container: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self("container", "inspect", container))
        return found[0]

    def logs(self, container: str) -> str:
        """All that it has said, on both of its streams; what podman says where there is no such container."""
        command = ["podman", *self._flags, "logs", container]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self._environ, timeout=60, check=False
        )
        return done.stdout.decode(errors="replace")

    def make_base(self, name: str) -> None:
        """An image with this machine's Python (`python_root`)."""
        tar = self.home / "base.tar"
        python_root.write(tar)
        self("import", str(tar), name)
        tar.unlink()

    def build(self, context: Path, containerfile: Path, name: str, arguments: Sequence[str] = ()) -> None:
        flags = [part for argument in arguments for part in ("--build-arg", argument)]
        flags += ["--network", "none", "--pull=never", "--layers=false", "-q", "-f", str(containerfile), "-t", name]
        self("build", *flags, str(context))

    def close(self) -> None:
        """Everything that runs is ended, and the store removed."""
        for command in (("pod", "rm", "-f", "-a", "-t", "0"), ("rm", "-f", "-a", "-t", "0"), ("umount", "-a")):
            subprocess.run(
                ["podman", *self._flags, *command], env=self._environ, capture_output=True, timeout=120, check=False
            )
        for folder in (self._run_root, self.home):
            shutil.rmtree(folder, ignore_errors=True)
