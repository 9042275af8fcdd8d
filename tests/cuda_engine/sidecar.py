"""A sidecar of keeper and copiers alone, for machines that have little installed: `python -m cuda_engine.sidecar DIR`.

Needs numpy, xxhash and cuda-bindings. Its status is the file DIR/status.json, written anew several times a second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from rekindle.backends import Backends
from rekindle.config import Config
from rekindle.keeper.keeper import Keeper

STATUS_PERIOD_S = 0.01


async def serve(directory: Path, store_dir: Path, salvage_budget_s: float) -> None:
    keeper = Keeper(
        Config(run_dir=directory, store_dir=store_dir, store_size_bytes=256 << 20, salvage_budget_s=salvage_budget_s),
        Backends(),
    )
    await keeper.start()
    print("serving", flush=True)
    path, new = directory / "status.json", directory / "status.new"
    while True:
        status = keeper.status()
        recovery = status.last_recovery
        engines = [
            {
                "state": engine.state,
                "note": engine.note,
                "checkpointed": engine.pages.checkpointed,
                "pending": engine.pages.pending,
            }
            for engine in status.engines
        ]
        new.write_text(json.dumps({"engines": engines, "recovery": recovery.to_json() if recovery else None}))
        os.replace(new, path)
        await asyncio.sleep(STATUS_PERIOD_S)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
