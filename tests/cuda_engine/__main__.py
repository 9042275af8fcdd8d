"""`CUDA_ENGINE_MEMORY=torch CUDA_ENGINE_SHARING=cuda_vmm python -m cuda_engine …`: arguments as the nano engine's."""

import os
import sys

from nano_engine import __main__ as nano
from nano_engine import engine

from cuda_engine.cache import CACHES

engine.KVCache = CACHES[os.environ["CUDA_ENGINE_MEMORY"]]  # type: ignore[misc]

if __name__ == "__main__":
    sys.exit(nano.main())
