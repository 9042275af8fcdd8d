"""Tests on a real GPU. Without one, or without what they need, each is skipped with the reason.

They need a CUDA driver, PyTorch, numpy, xxhash and cuda-bindings 13, and no network: `make gpu-deps` fetches beforehand
what a machine lacks into .gpu-deps, which can be carried there.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit" / "copier"))


def missing() -> str:
    """Why there can be no GPU tests here; "" when there can."""
    for name in ("torch", "numpy", "xxhash", "cuda.bindings.driver"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"no {name}: {error}"
    import torch

    return "" if torch.cuda.is_available() else "torch sees no CUDA GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = missing() if here else ""
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
