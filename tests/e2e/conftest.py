"""Real vLLM engines for the end-to-end tests. VLLM_PYTHON names the interpreter of an environment with vLLM."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vllm_driving import Launcher, VllmPod, make_model

_pods: list[VllmPod] = []


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    python = os.environ.get("VLLM_PYTHON", "")
    if not Path(python).is_file():
        reason = f"VLLM_PYTHON {python!r} is no interpreter" if python else "VLLM_PYTHON is not set"
        if os.environ.get("REKINDLE_REQUIRE_VLLM") == "1":
            pytest.fail(f"{reason}, and REKINDLE_REQUIRE_VLLM=1 asks for it")
        pytest.skip(f"{reason}: it names the Python of an environment with vLLM's CPU build")
    launcher = Launcher(python)
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def models(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a model, once for each set of options of make_model.py."""
    made: dict[tuple[str, ...], Path] = {}

    def model(*options: str) -> Path:
        if options not in made:
            made[options] = make_model(launcher.python, tmp_path_factory.mktemp("model"), *options)
        return made[options]

    return model


@pytest.fixture(scope="session")
def llama(models: Callable[..., Path]) -> Path:
    return models()


@pytest.fixture
def pod(launcher: Launcher) -> Iterator[VllmPod]:
    """A pod with a sidecar that serves; no engine has been started."""
    with VllmPod(launcher) as pod:
        _pods.append(pod)
        pod.sidecar.start()
        yield pod
        _pods.remove(pod)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows the ends of its pods' logs."""
    report = yield
    if report.failed:
        for pod in _pods:
            report.sections += [(f"end of {name}", text) for name, text in pod.logs().items()]
    return report
