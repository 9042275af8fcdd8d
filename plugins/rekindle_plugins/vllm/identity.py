"""The identity of a vLLM engine's pages: model, weights, dtypes, geometry, parallelism, hash scheme.

Runs in the scheduler process, once per start. What a rank alone knows (the byte layout inside a page) comes with its
region and is added by the keeper.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from rekindle_plugins.contract.errors import IdentityError
from rekindle_plugins.contract.identity import Identity
from rekindle_plugins.contract.model_files import digest_model_files
from rekindle_plugins.vllm.support import Group

_VOLATILE = {"_name_or_path", "transformers_version", "_commit_hash"}


def identity_of(vllm_config: Any, groups: tuple[Group, ...], hash_block_size: int) -> Identity:
    """Raises IdentityError when something that matters cannot be established."""
    model, cache, parallel = vllm_config.model_config, vllm_config.cache_config, vllm_config.parallel_config
    load_format = str(getattr(vllm_config.load_config, "load_format", "auto"))
    speculative = getattr(vllm_config, "speculative_config", None)
    fields: dict[str, object] = {
        "backend": "vllm",
        "model": ",".join(model.hf_config.architectures or ["unknown"]),
        "model_files": _weights(model, load_format),
        "model_config": _config_digest(model.hf_config),
        "revision": model.revision or "none",
        "dtype": model.dtype,
        "quantization": model.quantization or "none",
        "kv_cache_dtype": cache.cache_dtype,
        "geometry": _short("; ".join(group.description for group in groups)),
        "hash_scheme": _hash_scheme(cache.prefix_caching_hash_algo, hash_block_size),
        "parallel": f"tp{parallel.tensor_parallel_size}",
        "speculative": _speculative(speculative, load_format),
        "weight_version": "0",
    }
    return Identity.of(fields)


def settle_hash_seed(algorithm: str) -> None:
    """Makes block hashes the same in every process where vLLM does not: before it calls `init_none_hash`.

    vLLM up to 0.29 seeds the chain's start at random unless PYTHONHASHSEED is set; newer ones use a fixed seed for
    collision-resistant hashes. Doing the same for the older ones is safe for the same reason.
    """
    from vllm.v1.core import kv_cache_utils

    if algorithm.startswith("sha256") and not hasattr(kv_cache_utils, "resolve_none_hash_seed"):
        os.environ.setdefault("PYTHONHASHSEED", "0")


def _hash_scheme(algorithm: str, hash_block_size: int) -> str:
    import vllm

    seed = os.environ.get("PYTHONHASHSEED")
    if seed is None and not algorithm.startswith("sha256"):
        raise IdentityError(
            "identify",
            "engine",
            f"block hashes of {algorithm} start from a random seed in every process",
            "set PYTHONHASHSEED for the engine, or use sha256",
        )
    return f"{algorithm} by {hash_block_size} seed {seed or 'default'} vllm {vllm.__version__}"


def _weights(model: Any, load_format: str) -> str:
    if load_format == "dummy":
        return f"dummy weights, seed {model.seed}"
    return digest_model_files(_model_path(model.model, model.revision))


def _model_path(name: str, revision: str | None) -> str:
    """The local folder of a model; a hub name is looked up in the local cache only."""
    if os.path.exists(name):
        return name
    try:
        from huggingface_hub import snapshot_download

        return str(snapshot_download(name, revision=revision, local_files_only=True))
    except Exception as error:
        raise IdentityError("identify", f"model {name}", f"its files were not found locally: {error}") from error


def _config_digest(config: Any) -> str:
    values = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _speculative(config: Any, load_format: str) -> str:
    """Draft layers may live in the same groups, so their weights matter as much. Raises IdentityError as for ours."""
    if config is None:
        return "none"
    method, draft = str(config.method), getattr(config, "draft_model_config", None)
    if draft is None or draft.model is None:
        return f"{method} {config.num_speculative_tokens}"
    return f"{method} {config.num_speculative_tokens} {_weights(draft, load_format)}"


def _short(text: str) -> str:
    return text if len(text) <= 512 else f"{text[:440]}… {hashlib.sha256(text.encode()).hexdigest()}"
