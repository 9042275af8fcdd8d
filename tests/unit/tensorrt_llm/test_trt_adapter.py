"""`trtllm-serve`'s command line, and what is refused with the recipe."""

from __future__ import annotations

import pytest
from rekindle.backends import discover
from rekindle_plugins.contract import ConfigError, Launch
from rekindle_plugins.tensorrt_llm.adapter import ENGINE_YAML, TensorRtLlmAdapter

SERVE = ("trtllm-serve", "serve", "meta-llama/Llama-3.1-8B-Instruct")


@pytest.fixture
def adapter() -> TensorRtLlmAdapter:
    return TensorRtLlmAdapter()


@pytest.mark.parametrize(
    "launch",
    [
        Launch(SERVE),
        Launch(("mpirun", "-n", "2", "/usr/bin/trtllm-serve", "model")),
        Launch(("python3", "-m", "tensorrt_llm.commands.serve", "serve", "model")),
        Launch(("bash", "-c", "trtllm-serve serve model")),
        Launch((), ("serve", "model"), image="registry.example/nvidia/tensorrt-llm/release:1.2.0"),
    ],
    ids=str,
)
def test_trtllm_serve_is_recognised(adapter: TensorRtLlmAdapter, launch: Launch) -> None:
    assert adapter.recognises(launch)
    assert discover(()).for_launch(launch).info.name == "tensorrt_llm"  # type: ignore[union-attr]


@pytest.mark.parametrize("words", [("vllm", "serve", "m"), ("trtllm-bench",), ()])
def test_other_commands_are_not(adapter: TensorRtLlmAdapter, words: tuple[str, ...]) -> None:
    assert not adapter.recognises(Launch(words))


@pytest.mark.parametrize(
    "launch",
    [
        Launch(("trtllm-serve", "disaggregated", "-c", "d.yaml")),
        Launch(("trtllm-serve",), ("mm_embedding_serve", "m")),
        Launch(("python3", "-m", "tensorrt_llm.commands.serve", "grpc", "m")),
        Launch(("bash", "-c", "trtllm-serve disaggregated -c d.yaml | tee log")),
    ],
    ids=str,
)
def test_its_other_servers_are_no_engines_and_are_not_wired(adapter: TensorRtLlmAdapter, launch: Launch) -> None:
    assert not adapter.recognises(launch)
    with pytest.raises(ConfigError, match="is no server of an engine"):
        adapter.wire(launch)


@pytest.mark.parametrize("args", [(), ("disaggregated", "-c", "d.yaml"), ("python3", "convert.py")])
def test_its_image_alone_does_not_make_an_engine(adapter: TensorRtLlmAdapter, args: tuple[str, ...]) -> None:
    assert not adapter.recognises(Launch((), args, image="registry.example/nvidia/tensorrt-llm/release:1"))


def test_a_plain_command_gets_our_file_and_the_run_directory_under_the_engines_prefix(
    adapter: TensorRtLlmAdapter,
) -> None:
    wired = adapter.wire(Launch(SERVE, environment={"REKINDLE_RUN_DIR": "/run/x"})).launch
    assert wired.words == (*SERVE, "--config", str(ENGINE_YAML))
    assert wired.environment == {"REKINDLE_RUN_DIR": "/run/x", "TLLM_REKINDLE_RUN_DIR": "/run/x"}
    assert adapter.wire(wired).launch == wired
    lines = ENGINE_YAML.read_text()
    for name in ("rekindle_plugins.tensorrt_llm", "RekindleScheduler", "RekindleWorker", "GUARANTEED_NO_EVICT"):
        assert name in lines


def test_a_container_gets_the_file_from_where_it_will_have_the_package(adapter: TensorRtLlmAdapter) -> None:
    launch = Launch((), SERVE, {"REKINDLE_RUN_DIR": "/run/x"}, "r.example/nvidia/tensorrt-llm/release", "/opt/rekindle")
    wired = adapter.wire(launch).launch
    assert wired.args == (*SERVE, "--config", "/opt/rekindle/rekindle_plugins/tensorrt_llm/engine.yaml")
    assert wired.environment["TLLM_REKINDLE_RUN_DIR"] == "/run/x"
    assert adapter.wire(wired).launch == wired


@pytest.mark.parametrize(
    "launch",
    [
        Launch((*SERVE, "--config", "mine.yaml")),
        Launch((*SERVE, "--extra_llm_api_options=mine.yaml")),
        Launch(("sh", "-c", "trtllm-serve model")),
        Launch(SERVE, image="registry.example/nvidia/tensorrt-llm/release:1.2.0"),
    ],
    ids=str,
)
def test_what_cannot_be_wired_safely_is_refused_with_what_to_do(adapter: TensorRtLlmAdapter, launch: Launch) -> None:
    with pytest.raises(ConfigError) as refused:
        adapter.wire(launch)
    assert "TLLM_REKINDLE_RUN_DIR" in refused.value.hint


def test_a_file_that_was_edited_by_hand_is_kept_when_the_environment_says_so(adapter: TensorRtLlmAdapter) -> None:
    environment = {"TLLM_REKINDLE_RUN_DIR": "/run/rekindle/private"}
    launch = Launch((*SERVE, "--config", "mine.yaml"), environment=environment, image="i")
    assert adapter.wire(launch).launch == launch
    script = Launch(("sh", "-c", "trtllm-serve m --config /opt/rekindle/rekindle_plugins/tensorrt_llm/engine.yaml"))
    assert adapter.wire(script).launch == script
