"""What this plugin can and cannot do with a given engine, decided once at start.

An unsupported configuration turns the plugin off with one clear line. The engine then runs as without it; what the
engine itself refuses with a connector, it refuses before or after us in its own words.

Leans on `TorchLlmArgs` (tensorrt_llm/llmapi/llm_args.py). A setting that a version lacks is taken as not used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NO_EVICT = "GUARANTEED_NO_EVICT"
MAX_CONFIG_BYTES = 16 << 20
_WINDOWED_LAYERS = frozenset({"sliding_attention", "chunked_attention", "linear_attention", "mamba", "recurrent"})
_OTHER_INPUTS = ("vision_config", "audio_config", "speech_config", "image_token_id", "thinker_config")
_OTHER_STATE = ("mamba_d_state", "ssm_state_size", "state_size", "hybrid_override_pattern", "linear_num_key_heads")


class UnsupportedError(Exception):
    """The configuration is one that this plugin does not protect. The text says which part, and what to set."""


def check_args(args: Any) -> int:
    """The number of ranks that hold a part of every page. Raises UnsupportedError."""
    for name, what in (
        ("pipeline_parallel_size", "pipeline parallelism"),
        ("context_parallel_size", "context parallelism"),
        ("max_beam_width", "beam search"),
    ):
        if int(getattr(args, name, None) or 1) > 1:
            raise UnsupportedError(f"{what} is not supported: {name} must be 1")
    for name, what in (
        ("enable_attention_dp", "attention data parallelism: every rank has requests of its own then"),
        ("speculative_config", "speculative decoding: the KV of guessed tokens cannot be told from the others'"),
        ("sparse_attention_config", "sparse attention: its index cache lies outside the KV cache's pools"),
        ("cache_transceiver_config", "disaggregated serving"),
    ):
        if getattr(args, name, None):
            raise UnsupportedError(f"{what} is not supported ({name})")
    _check_cache(getattr(args, "kv_cache_config", None))
    policy = getattr(getattr(args, "scheduler_config", None), "capacity_scheduler_policy", NO_EVICT)
    if _name_of(policy) != NO_EVICT:
        raise UnsupportedError(f"scheduler_config.capacity_scheduler_policy must be {NO_EVICT}, it is {policy}")
    return int(getattr(args, "tensor_parallel_size", None) or 1)


def _check_cache(cache: Any) -> None:
    if not getattr(cache, "enable_block_reuse", True):
        raise UnsupportedError("kv_cache_config.enable_block_reuse must be true")
    if getattr(cache, "enable_partial_reuse", True):
        raise UnsupportedError("kv_cache_config.enable_partial_reuse must be false: pages are matched whole")
    host_bytes = getattr(cache, "host_cache_size", None)
    if host_bytes or (host_bytes is None and getattr(cache, "use_kv_cache_manager_v2", False) is not False):
        raise UnsupportedError("kv_cache_config.host_cache_size must be 0: a block may leave the GPU otherwise")
    if getattr(cache, "max_attention_window", None):
        raise UnsupportedError("sliding windows are not supported (kv_cache_config.max_attention_window)")
    if "fp4" in str(getattr(cache, "dtype", "")).lower():
        raise UnsupportedError("a 4-bit KV cache is not supported: its block scales lie in a pool of their own")


def model_folder(args: Any) -> Path:
    """The local folder of the model. A hub name is looked up in the local cache only. Raises UnsupportedError."""
    name, revision = str(getattr(args, "model", "")), getattr(args, "revision", None)
    if name and os.path.isdir(name):
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except Exception as error:
        raise UnsupportedError(f"the files of model {name!r:.200} were not found locally: {error}") from error


def check_model(folder: Path) -> Mapping[str, Any]:
    """The model's config.json. Raises UnsupportedError for state or inputs that a page of tokens does not tell."""
    config = _read(folder / "config.json")
    for part in (config, config.get("text_config") or {}):
        if any(part.get(name) for name in _OTHER_INPUTS) or part.get("is_encoder_decoder"):
            raise UnsupportedError("models with inputs beyond tokens are not supported")
        if any(part.get(name) for name in _OTHER_STATE):
            raise UnsupportedError("models with state beyond attention pages (Mamba and the like) are not supported")
        has_window = part.get("sliding_window") and part.get("use_sliding_window", True)
        if has_window or _WINDOWED_LAYERS & set(part.get("layer_types") or ()):
            raise UnsupportedError("models with sliding windows are not supported")
    quantized = _read(folder / "hf_quant_config.json").get("quantization") or {}
    if "4" in str(quantized.get("kv_cache_quant_algo") or ""):
        raise UnsupportedError("a 4-bit KV cache is not supported: its block scales lie in a pool of their own")
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UnsupportedError(f"{path.name} has more than {MAX_CONFIG_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedError(f"{path.name} cannot be read: {error}") from error
    return value if isinstance(value, dict) else {}


def _name_of(value: Any) -> str:
    """Of an enum's member, or a text."""
    return str(getattr(value, "value", value)).rpartition(".")[2]
