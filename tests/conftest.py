"""For all tests: the nano engine and the shared drivers can be imported; numpy computes as its engines do."""

import os
import sys
from pathlib import Path

import pytest

# Before numpy is imported anywhere: one BLAS thread each, or two cores are fought over by a dozen processes.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

sys.path[:0] = [str(Path(__file__).parents[1] / "examples"), str(Path(__file__).parent)]

CHAOS_KILLS, CHAOS_SEED = 200, 20_24


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here and not beside the chaos test, so that `pytest tests --kills 5` knows them, too."""
    parser.addoption("--kills", type=int, default=CHAOS_KILLS, help="how many SIGKILLs the chaos test sends")
    parser.addoption("--stream-kills", type=int, default=20, help="how many SIGKILLs the streams have to live through")
    parser.addoption("--chaos-seed", type=int, default=CHAOS_SEED, help="decides who is killed when")
