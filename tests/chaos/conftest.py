"""The options of the chaos test (see `tests/conftest.py`) as fixtures."""

import pytest


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    count: int = request.config.getoption("--kills")
    return count


@pytest.fixture
def stream_kills(request: pytest.FixtureRequest) -> int:
    count: int = request.config.getoption("--stream-kills")
    return count


@pytest.fixture
def chaos_seed(request: pytest.FixtureRequest) -> int:
    seed: int = request.config.getoption("--chaos-seed")
    return seed
