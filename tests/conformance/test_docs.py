"""docs/plugins.md, executed: its commands are run, its files are written, and the plugin that comes of it passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from rekindle.skeleton import write

DOCUMENT = Path(__file__).parents[2] / "docs" / "plugins.md"
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLUGIN = "paged"


class Block(NamedTuple):
    language: str
    title: str
    body: str


def blocks() -> Iterator[Block]:
    for match in FENCE.finditer(DOCUMENT.read_text()):
        yield Block(match[1], match[2] or "", match[3])


def run(commands: str, directory: Path) -> str:
    """Every `$ …` line, with this environment's programs. Raises where one fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ["PATH"]])
    said = ""
    for line in commands.splitlines():
        prompt, _, command = line.partition("$ ")
        assert not prompt, f"what a command prints is not written down: {line}"
        done = subprocess.run(["sh", "-c", command], cwd=directory, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    return said


@pytest.mark.timeout(400)
def test_the_document_leads_to_a_plugin_that_passes_the_kit(tmp_path: Path) -> None:
    said = ""
    written: set[Path] = set()
    for block in blocks():
        if block.language == "console":
            said += run(block.body, tmp_path)
        elif block.title:
            path = tmp_path / PLUGIN / block.title
            assert path.exists(), f"the skeleton has no {block.title}"
            before = path.read_text() + "\n" if path in written else ""
            path.write_text(before + block.body)
            written.add(path)
    assert "0 failed, 1 not applicable" in said
    assert "command: --plugin rekindle_paged.shim:connect" in said
    assert {path.name for path in written} == {"plugin.toml", "plugin.py", "shim.py", "adapter.py", "driver.py"}


def test_the_documents_files_are_the_skeletons(tmp_path: Path) -> None:
    """So that whoever reads the one can find it in the other."""
    folder = write(PLUGIN, tmp_path)
    told: dict[str, str] = {}
    for block in blocks():
        if block.title:
            told[block.title] = told.get(block.title, "") + block.body
    for name, text in told.items():
        wanted = [line for line in (folder / name).read_text().splitlines() if line]
        assert [line for line in text.splitlines() if line] == wanted, name


def test_every_block_is_executed_or_is_one_for_a_package() -> None:
    assert {block.language for block in blocks() if not block.title} == {"console", "toml"}
    loose = [block.body for block in blocks() if block.language == "toml" and not block.title]
    assert len(loose) == 1
    assert '"rekindle.backends"' in loose[0]
