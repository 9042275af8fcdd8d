"""The nano engine's shim, for a cache in GPU memory: it is exported as the vLLM worker's shim does it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace

from nano_engine.cache import KVCache
from rekindle_plugins.client.cuda import export_buffers
from rekindle_plugins.contract.geometry import GroupGeometry, Region, Run
from rekindle_plugins.nano.shim import NanoShim


class CudaShim(NanoShim):
    """As the nano engine's, but for what is shared."""

    def share(self, cache: KVCache) -> tuple[Region, Sequence[int]]:
        exported = export_buffers([(cache.address, cache.total_bytes)])  # type: ignore[attr-defined]
        run = Run(0, 0, cache.page_bytes, cache.page_bytes)
        group = GroupGeometry(cache.geometry.page_tokens, (run,))
        region = Region(0, exported.kind, cache.geometry.pages, (cache.total_bytes,), (group,))
        return replace(region, devices=exported.devices), exported.fds


def connect(_: argparse.Namespace) -> CudaShim:
    return CudaShim(os.environ["REKINDLE_RUN_DIR"])
