"""The GPU tests' scenario over the stand-in, so that it is known to run before a machine with a GPU is there."""

from __future__ import annotations

from collections.abc import Iterator

import cuda_stub
import pytest
from cuda_engine.scenario import kill_in_mid_decode
from cuda_stub import Stub
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    if cuda_stub.missing():
        pytest.skip(cuda_stub.missing())
    pytest.importorskip("cuda.bindings", reason="no cuda-bindings")
    stub = Stub()
    for name, value in stub.environ.items():
        monkeypatch.setenv(name, value)
    yield stub
    stub.close()


@pytest.mark.parametrize("sharing", [CUDA_IPC, CUDA_VMM])
def test_the_gpu_tests_scenario_holds_on_the_stand_in(stub: Stub, sharing: str) -> None:
    report = kill_in_mid_decode("stand-in", sharing, lambda: (64 << 20) * (not stub.mappers()))
    assert report["released_s"] < 10
