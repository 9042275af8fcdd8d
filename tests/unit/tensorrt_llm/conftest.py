"""A model's folder, and TensorRT-LLM's interface under its module names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trt_engine import interface
from trt_engine.driving import make_model


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(make_model(tmp_path / "model"))


@pytest.fixture(autouse=True)
def run_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nobody listens there."""
    monkeypatch.setenv("TLLM_REKINDLE_RUN_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(params=sorted(interface.PLACES))
def connector(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The connector's module, with the engine's interface in either place."""
    interface.uninstall()
    interface.install(request.param)
    from rekindle_plugins.tensorrt_llm import connector

    yield connector
    interface.uninstall()
