"""The checked-in code is what the proto gives."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from rekindle.admin import generate


def test_generating_again_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    kept = generate.checked_in()
    if metadata.version("grpcio-tools") != generate.tool_version(kept):
        pytest.skip(f"the files were made with grpcio-tools {generate.tool_version(kept)}")
    assert generate.generate(tmp_path) == kept
