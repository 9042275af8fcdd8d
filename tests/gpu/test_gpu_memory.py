"""The copier against a real driver: bytes of every layout, either way of sharing, and the fence against real writes."""

from __future__ import annotations

import asyncio
import random

import pytest

for needed in ("numpy", "xxhash", "cuda.bindings.driver"):
    pytest.importorskip(needed, exc_type=ImportError)

from copier_samples import LAYOUTS  # noqa: E402
from cuda_samples import CudaPlace  # noqa: E402
from cuda_stub.memory import Device  # noqa: E402
from rekindle.copier.protocol import LoadRow, SaveRow, Status, pack_loads, pack_saves  # noqa: E402
from rekindle_plugins.contract.sharing import CUDA_IPC, CUDA_VMM  # noqa: E402
from test_copier_process import Harness  # noqa: E402


@pytest.mark.parametrize("sharing", [CUDA_IPC, CUDA_VMM])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_of_every_layout_go_out_and_come_back(sharing: str, layout: str) -> None:
    async def main() -> None:
        place = CudaPlace.on_gpu(Device(), sharing, layout)
        harness = Harness(place)
        try:
            for group in range(len(place.region.groups)):
                harness.rows.clear()
                page = place.page(2, group)
                harness.copier.send(pack_saves([SaveRow(1, 2, group, 0)]))
                await harness.until(lambda: len(harness.rows) == 1 or harness.gone)
                assert not harness.gone, harness.gone
                assert place.slot(1, group) == page
                harness.copier.send(pack_loads([LoadRow(1, 4, group, 0, harness.rows[0].checksum)]))
                await harness.until(lambda: len(harness.rows) == 2 or harness.gone)
                assert harness.rows[1].status is Status.OK
                assert place.page(4, group) == page
        finally:
            await harness.close()

    asyncio.run(main())


@pytest.mark.parametrize("sharing", [CUDA_IPC, CUDA_VMM])
def test_no_page_that_is_overwritten_while_it_is_copied_is_accepted(sharing: str) -> None:
    """Pages are filled with one byte each time, after their fence was raised. What is accepted has one byte only."""
    source = random.Random(11)

    async def main() -> None:
        place = CudaPlace.on_gpu(Device(), sharing, "strided layers")
        harness = Harness(place)
        accepted = moved = 0
        try:
            for turn in range(1, 400):
                place.fence.raise_pages([2])
                place.overwrite(2, turn % 256)
                epoch = place.fence.epoch(2)
                count = len(harness.rows)
                harness.copier.send(pack_saves([SaveRow(0, 2, 0, epoch)]))
                if source.random() < 0.5:
                    await asyncio.sleep(source.random() * 0.0005)
                    place.fence.raise_pages([2])
                    place.overwrite(2, (turn + 128) % 256)
                await harness.until(lambda count=count: len(harness.rows) > count or harness.gone)
                assert not harness.gone, harness.gone
                if harness.rows[-1].status is Status.OK:
                    accepted += 1
                    assert set(place.slot(0, 0)) == {turn % 256}, "a torn page was accepted"
                else:
                    moved += 1
        finally:
            await harness.close()
        print(f"{sharing}: {accepted} accepted, {moved} discarded")
        assert accepted

    asyncio.run(main())
