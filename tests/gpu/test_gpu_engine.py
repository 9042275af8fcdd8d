"""A real engine on a real GPU: attached either way, checkpointed under load, killed in mid-decode, and going on."""

from __future__ import annotations

import pytest

pytest.importorskip("numpy", exc_type=ImportError)

from cuda_engine.scenario import kill_in_mid_decode
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM

SALVAGE_BUDGET_S = 2.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sharing", [CUDA_IPC, CUDA_VMM])
def test_a_killed_engine_goes_on_in_a_fresh_one_with_its_gpu_memory_let_go_of(sharing: str) -> None:
    import torch

    torch.cuda.init()
    report = kill_in_mid_decode("torch", sharing, lambda: torch.cuda.mem_get_info()[0])
    print(f"{sharing}: {report}")
    assert report["released_s"] < SALVAGE_BUDGET_S + 1.0
