"""What is refused, what makes an identity, and how settings reach the engine's processes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.tensorrt_llm.identity import identity_of
from rekindle_plugins.tensorrt_llm.settings import Settings
from rekindle_plugins.tensorrt_llm.support import UnsupportedError, check_args, check_model
from trt_engine.driving import make_model
from trt_samples import llm_args


def test_the_recipe_is_supported() -> None:
    assert check_args(llm_args(tensor_parallel_size=4)) == 4


@pytest.mark.parametrize(
    "setting",
    [
        {"pipeline_parallel_size": 2},
        {"context_parallel_size": 2},
        {"max_beam_width": 4},
        {"enable_attention_dp": True},
        {"speculative_config": True},
        {"sparse_attention_config": True},
        {"cache_transceiver_config": True},
        {"scheduler_config": SimpleNamespace(capacity_scheduler_policy="MAX_UTILIZATION")},
        {"kv_enable_block_reuse": False},
        {"kv_enable_partial_reuse": True},
        {"kv_host_cache_size": 1 << 30},
        {"kv_host_cache_size": None, "kv_use_kv_cache_manager_v2": True},
        {"kv_host_cache_size": None, "kv_use_kv_cache_manager_v2": "auto"},
        {"kv_max_attention_window": [4096]},
        {"kv_dtype": "nvfp4"},
    ],
    ids=str,
)
def test_what_cannot_be_proved_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        check_args(llm_args(**setting))


def test_the_policys_enum_is_understood() -> None:
    import enum

    policy = enum.Enum("CapacitySchedulerPolicy", {"GUARANTEED_NO_EVICT": "GUARANTEED_NO_EVICT"})
    check_args(llm_args(scheduler_config=SimpleNamespace(capacity_scheduler_policy=policy.GUARANTEED_NO_EVICT)))


@pytest.mark.parametrize(
    "config",
    [
        {"vision_config": {"depth": 1}},
        {"text_config": {"sliding_window": 4096}},
        {"sliding_window": 4096},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"is_encoder_decoder": True},
        {"hybrid_override_pattern": "M-*"},
    ],
    ids=str,
)
def test_models_whose_pages_are_more_than_tokens_are_refused(model: str, config: dict[str, Any]) -> None:
    Path(model, "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError):
        check_model(Path(model))


def test_a_window_that_is_switched_off_is_none(model: str) -> None:
    Path(model, "config.json").write_text(json.dumps({"sliding_window": 4096, "use_sliding_window": False}))
    check_model(Path(model))


def test_the_identity_differs_with_everything_that_changes_kv(model: str, tmp_path: Path) -> None:
    def identity(args: Any, version: str = "1.3.0", tokens: int = 32, size: int = 100) -> bytes:
        return identity_of(args, version, tokens, size).digest

    base = identity(llm_args(model))
    assert base == identity(llm_args(model))
    other = str(make_model(tmp_path / "other", b"other weights"))
    different = [
        identity(llm_args(other)),
        identity(llm_args(model, dtype="float16")),
        identity(llm_args(model, kv_dtype="fp8")),
        identity(llm_args(model, tensor_parallel_size=2)),
        identity(llm_args(model, model_kwargs={"rope_scaling": 2})),
        identity(llm_args(model, quant_config="fp8")),
        identity(llm_args(model), "1.4.0"),
        identity(llm_args(model), tokens=64),
        identity(llm_args(model), size=200),
    ]
    assert len({base, *different}) == 1 + len(different)


def test_weights_that_cannot_be_named_are_refused(model: str) -> None:
    with pytest.raises(UnsupportedError, match="dummy"):
        identity_of(llm_args(model, load_format="LoadFormat.DUMMY"), "1", 32, 100)
    with pytest.raises(UnsupportedError, match="not found locally"):
        identity_of(llm_args("nobody/nothing"), "1", 32, 100)


def test_settings_come_under_the_engines_prefix_first() -> None:
    both = {"TLLM_REKINDLE_RUN_DIR": "/a", "REKINDLE_RUN_DIR": "/b"}
    assert Settings.of(both).attach_path == "/a/attach.sock"
    assert Settings.of({"REKINDLE_RUN_DIR": "/b"}).attach_path == "/b/attach.sock"
    assert Settings.of({}).attach_path == "/run/rekindle/attach.sock"
    assert Settings.of({"TLLM_REKINDLE_WAIT_MS": "20", "TLLM_REKINDLE_STAGING_BYTES": "0"}).wait_s == 0.02


@pytest.mark.parametrize("text", ["-1", "x", "1e3", "99999999999999999999"])
def test_a_setting_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Settings.of({"TLLM_REKINDLE_STAGING_BYTES": text})
