"""What `COPY . /source` in Dockerfile.sidecar takes: what the wheel is made of, and nothing else of a working copy."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_image_is_built_from_what_the_wheel_is_made_of_alone() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    taken = {line[1:] for line in lines if line.startswith("!")}
    project = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"targets\.wheel\]\npackages = \[(.*)\]", project)
    readme = re.search(r'^readme = "(.*)"$', project, re.MULTILINE)
    assert packages is not None
    assert readme is not None
    folders = {name.strip(' "').split("/")[0] for name in packages[1].split(",")}
    assert taken == {"pyproject.toml", readme[1], *folders, "wheels"}
    assert "COPY wheels " in (ROOT / "Dockerfile.sidecar").read_text()
