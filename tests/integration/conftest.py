"""A pod for each test, and the reference that all tests share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from driving import Pod, Reference


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture
def make_pod() -> Iterator[Callable[..., Pod]]:
    """Makes pods (settings of the sidecar as keywords, not started), and ends them after the test."""
    made: list[Pod] = []

    def make(**settings: str) -> Pod:
        made.append(pods.enter_context(Pod(**settings)))
        return made[-1]

    with ExitStack() as pods:
        yield make
        for pod in made:
            print(pod.logs())  # shown where the test has failed


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    """A pod with a sidecar that serves."""
    pod = make_pod()
    pod.sidecar.start()
    return pod
