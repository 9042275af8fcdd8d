"""The stand-in for the CUDA driver, in this process and in the copiers that it starts."""

from __future__ import annotations

from collections.abc import Iterator

import cuda_stub
import pytest
from cuda_stub import Stub
from cuda_stub.memory import Device


@pytest.fixture(scope="session")
def loaded_stub() -> Iterator[Stub]:
    if cuda_stub.missing():
        pytest.skip(cuda_stub.missing())
    stub = Stub()
    stub.load()
    yield stub
    stub.close()


@pytest.fixture
def stub(loaded_stub: Stub) -> Iterator[Stub]:
    """Without faults, before and after."""
    loaded_stub.reset()
    yield loaded_stub
    loaded_stub.reset()


@pytest.fixture
def device(stub: Stub) -> Device:
    return Device()
