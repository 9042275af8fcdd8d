"""The identity of the engine's pages. Runs once a start, on the generation thread.

Weights are identified by the tensors that the model really has, not by the files they came from: so a merged adapter, a
quantization or an edit before the start counts as well. A small model is read whole; of a large one 64 bytes at 16
places of every tensor.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rekindle_plugins.contract.identity import Identity

from rekindle_transformers.engine_parts import EngineParts
from rekindle_transformers.keys import SCHEME
from rekindle_transformers.memory import describe
from rekindle_transformers.plugin import INFO

WHOLE_MODEL_BYTES = 64 << 20
SAMPLE_BYTES = 64
SAMPLES_PER_TENSOR = 16
_VOLATILE = {"_name_or_path", "transformers_version", "_commit_hash", "_attn_implementation"}


def identity_of(parts: EngineParts) -> Identity:
    """Raises IdentityError when something that matters cannot be established."""
    import torch
    import transformers

    model = parts.model
    config = model.config.get_text_config()
    return Identity.of(
        {
            "backend": INFO.name,
            "engine": f"transformers {transformers.__version__} torch {torch.__version__}",
            "model": type(model).__name__,
            "model_files": weights_digest(model),
            "model_config": _config_digest(config),
            "dtype": parts.cache.dtype,
            "attention": config._attn_implementation,
            "geometry": describe(parts),
            "parallel": "tp1",
            "hash_scheme": SCHEME,
            "weight_version": "0",
        }
    )


def weights_digest(model: Any) -> str:
    """Hex SHA-256 over names, types, shapes and content of the model's tensors."""
    tensors = sorted(model.state_dict().items())
    is_small = sum(tensor.nbytes for _, tensor in tensors) <= WHOLE_MODEL_BYTES
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        for part in [_bytes(tensor)] if is_small else _samples(_bytes(tensor)):
            digest.update(memoryview(part.numpy()))
    return digest.hexdigest()


def _bytes(tensor: Any) -> Any:
    import torch

    return tensor.detach().cpu().reshape(-1).view(torch.uint8)


def _samples(content: Any) -> list[Any]:
    """Evenly spread places, the first and the last bytes among them."""
    room = max(0, content.numel() - SAMPLE_BYTES)
    places = min(SAMPLES_PER_TENSOR, room // SAMPLE_BYTES + 1)
    starts = [room * i // (places - 1) if places > 1 else 0 for i in range(places)]
    return [content[start : start + SAMPLE_BYTES] for start in starts]


def _config_digest(config: Any) -> str:
    values = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
