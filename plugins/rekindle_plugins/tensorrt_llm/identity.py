"""The identity of a TensorRT-LLM engine's pages: weights, dtypes, geometry, parallelism, engine version.

Runs beside the leader, once per start. What a rank alone knows (the byte layout inside a page) comes with its region
and is added by the keeper.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rekindle_plugins.contract.identity import Identity
from rekindle_plugins.contract.model_files import digest_model_files
from rekindle_plugins.tensorrt_llm.support import UnsupportedError, check_model, model_folder

HASH_SCHEME = "sha256 over parent, tokens; root over salt; v1"
_DECIDES = (
    "dtype",
    "quant_config",
    "load_format",
    "checkpoint_format",
    "model_kwargs",
    "attn_backend",
    "moe_expert_parallel_size",
    "moe_tensor_parallel_size",
    "moe_cluster_parallel_size",
    "moe_config",
    "revision",
)
"""Settings of `TorchLlmArgs` that may change a token's KV."""


def identity_of(args: Any, engine_version: str, page_tokens: int, part_bytes: int) -> Identity:
    """Raises UnsupportedError, or IdentityError when something that matters cannot be established."""
    if _text(getattr(args, "load_format", "auto")).lower().endswith("dummy"):
        raise UnsupportedError("dummy weights are not the same in every start")
    folder = model_folder(args)
    config = check_model(folder)
    settings = {name: _text(getattr(args, name, None)) for name in _DECIDES}
    return Identity.of(
        {
            "backend": "tensorrt_llm",
            "model": ",".join(map(str, config.get("architectures") or ["unknown"]))[:200],
            "model_files": digest_model_files(folder),
            "settings": _digest(settings),
            "dtype": _text(getattr(args, "dtype", None)) or "auto",
            "kv_cache_dtype": _text(getattr(getattr(args, "kv_cache_config", None), "dtype", None)) or "auto",
            "geometry": f"{page_tokens} tokens, {part_bytes} bytes a rank",
            "parallel": f"tp{int(getattr(args, 'tensor_parallel_size', None) or 1)}",
            "hash_scheme": HASH_SCHEME,
            "engine": engine_version,
            "weight_version": "0",
        }
    )


def _text(value: Any) -> str:
    """A value as text that is the same in every process: no addresses, no order of a set."""
    if value is None:
        return ""
    dump = getattr(value, "model_dump_json", None)
    if callable(dump):
        return str(dump())
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, sort_keys=True, default=str)
    return str(value)[:2000]


def _digest(settings: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
