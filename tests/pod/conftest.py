"""Images and a podman of their own for the tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers.podman import Podman, missing
from driving import Reference

ROOT = Path(__file__).parents[2]
BASE, SIDECAR, ENGINE = "localhost/base:1", "localhost/rekindle-sidecar:1", "localhost/nano-engine:1"


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """With the sidecar's image, built from Dockerfile.sidecar, and the nano engine's."""
    lack = missing()
    if lack and os.environ.get("REKINDLE_REQUIRE_PODMAN"):
        pytest.fail(f"{lack}, and REKINDLE_REQUIRE_PODMAN asks for it")
    if lack:
        pytest.skip(lack)
    home = tmp_path_factory.mktemp("podman")
    made = Podman(home / "store")
    try:
        context = home / "context"
        shutil.copytree(ROOT / "examples" / "nano_engine", context / "nano_engine")
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--wheel-dir", str(context / "wheels")]
        subprocess.run([*pip, f"{ROOT}[sidecar]"], check=True, timeout=600)
        made.make_base(BASE)
        arguments = [f"BASE={BASE}", "WHEELS=given", "EXTRAS=sidecar", "VERSION=1"]
        made.build(context, ROOT / "Dockerfile.sidecar", SIDECAR, arguments)
        made.build(context, ROOT / "tests" / "containers" / "Containerfile.nano", ENGINE, [f"BASE={BASE}"])
        yield made
    finally:
        made.close()
