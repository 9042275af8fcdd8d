"""Real engines, sidecars and copiers with the KV cache in "GPU memory": the stand-in for the driver is below them all.

The stand-in's GPU has room for one engine's cache only, so a fresh engine starts only when the one before is let go of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cuda_stub
import pytest
from cuda_engine.driving import CudaEngine
from cuda_stub import ECC_UNCORRECTABLE, OTHER_GPU, Stub
from driving import Pod, Reference, until
from driving.arena import find_damage, stored_pages
from driving.process import proceed, stop_and_wait
from driving.reference import chain, prompt
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM

KINDS = [CUDA_IPC, CUDA_VMM]
PAGES, PAGE_BYTES = 256, 2 * 2 * 16 * 64 * 4


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    if cuda_stub.missing():
        pytest.skip(cuda_stub.missing())
    pytest.importorskip("cuda.bindings", reason="no cuda-bindings")
    stub = Stub()
    for name, value in stub.environ.items():
        monkeypatch.setenv(name, value)
    stub.set(total_bytes=PAGES * PAGE_BYTES * 3 // 2)
    yield stub
    stub.close()


def copier_at_work(stub: Stub, pod: Pod) -> int:
    """The copier, when it has mapped the engine's memory too."""
    (copier,) = pod.sidecar.ready_copiers()
    until("the copier to map the engine's memory", lambda: copier in stub.mappers())
    return copier


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_gpu_engine_goes_on_in_a_fresh_one_with_its_memory_let_go_of(
    stub: Stub, make_pod: Callable[..., Pod], reference: Reference, kind: str
) -> None:
    pod = make_pod(salvage_budget="10s" if kind == CUDA_VMM else "2s")
    pod.sidecar.start()
    engine = CudaEngine(pod, "stand-in", kind, pages=PAGES)
    engine.start()
    copier = copier_at_work(stub, pod)
    question = prompt(500)
    stub.set(total_bytes=PAGES * PAGE_BYTES * 3 // 2, delay_us=50)
    seen = []
    for token in engine.stream(question, 200):
        seen.append(token)
        if len(seen) == 40:
            stop_and_wait(copier)  # what is committed from now on can only be salvaged
        if len(seen) == 80:
            break
    assert set(stub.mappers()) >= {engine.pid, copier}
    engine.kill()
    pod.sidecar.when("the death to be noticed", lambda s: [e.state for e in s.engines] == ["salvaging"])
    assert stub.mappers() == [copier], "the dead engine's memory lives on in the copier"
    proceed(copier)
    pod.sidecar.when_released()
    assert stub.mappers() == []
    report = pod.sidecar.recovery()
    assert report.pages_salvaged
    assert report.pages_unsaved == 0
    assert find_damage(pod.store_dir, reference) == []
    engine.start()  # out of memory, if anything of the first were left
    again = engine.ask(question, 200)
    assert again.token_ids == reference.tokens(question, 200)
    assert again.cached_tokens == 496
    assert set(chain([*question, *again.token_ids[:79]])) <= set(stored_pages(pod.store_dir))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stuck_copier_does_not_keep_a_dead_engines_memory(
    stub: Stub, make_pod: Callable[..., Pod], kind: str
) -> None:
    pod = make_pod(salvage_budget="100ms")
    pod.sidecar.start()
    engine = CudaEngine(pod, "stand-in", kind, pages=PAGES)
    engine.start()
    copier = copier_at_work(stub, pod)
    stub.hold(True)  # its copies do not end any more
    engine.ask(prompt(100), 8)
    until("a copy to hang", lambda: stub.copies_begun)
    engine.kill()
    pod.sidecar.when_released()
    assert stub.mappers() == []
    assert copier not in pod.sidecar.copiers()
    assert pod.sidecar.recovery().release_s is not None  # while the copy still hung
    stub.hold(False)
    engine.start()


def test_a_lost_gpu_ends_the_copier_with_a_reason_and_neither_keeper_nor_engine(
    stub: Stub, make_pod: Callable[..., Pod], reference: Reference
) -> None:
    pod = make_pod()
    pod.sidecar.start()
    engine = CudaEngine(pod, "stand-in", CUDA_IPC, pages=PAGES)
    engine.start()
    copier_at_work(stub, pod)
    stub.fail("async_copy", ECC_UNCORRECTABLE)
    question = prompt(100)
    assert engine.ask(question).token_ids == reference.tokens(question)
    noted = pod.sidecar.when("the reason to be shown", lambda s: s.engines and "ECC" in s.engines[0].note)
    assert "CUDA_ERROR_ECC_UNCORRECTABLE" in noted.engines[0].note
    assert noted.copier_crashes
    stub.reset()
    stub.set(total_bytes=PAGES * PAGE_BYTES * 3 // 2)
    pod.sidecar.when("a new copier to catch up", lambda s: s.engines and s.engines[0].pages.checkpointed)
    assert find_damage(pod.store_dir, reference) == []


def test_a_gpu_that_the_sidecar_does_not_see_is_said_and_the_engine_serves(
    stub: Stub, make_pod: Callable[..., Pod], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = make_pod()
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_STUB_UUIDS", OTHER_GPU)
        pod.sidecar.start()
    engine = CudaEngine(pod, "stand-in", CUDA_VMM, pages=PAGES)
    engine.start()
    question = prompt(100)
    assert engine.ask(question).token_ids == reference.tokens(question)
    noted = pod.sidecar.when("the reason to be shown", lambda s: s.engines and s.engines[0].note)
    assert "it is not among the GPUs that the sidecar sees" in noted.engines[0].note
