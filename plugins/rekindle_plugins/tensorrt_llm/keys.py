"""Page keys: our own, since the engine's block hashes are 64-bit and not made to withstand an attacker.

    key of a page  =  SHA-256( label | key of the page before, or the request's root | tokens as little-endian u32 )

A root stands for what changes KV beyond the tokens: the cache salt, which keeps tenants apart. Requests whose KV
depends on more than that have no root and are neither stored nor restored: LoRA adapters (an id says nothing of the
weights behind it), and inputs that are no tokens (images, audio, embeddings, an encoder's output).

Leans on `LlmRequest` (cpp/tensorrt_llm/nanobind/batch_manager/bindings.cpp and _torch/pyexecutor/llm_request.py).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

from rekindle_plugins.contract.journal import LAZY_ONLY

LABEL = b"rekindle tensorrt_llm page 1\0"
PLAIN_ROOT = bytes(32)
"""Of a request without a salt. It is the only root that can be made again from a stored page's tokens."""
_BEYOND_TOKENS = (
    "lora_task_id",
    "py_lora_path",
    "multimodal_hashes",
    "multimodal_positions",
    "multimodal_lengths",
    "multimodal_embedding",
    "py_multimodal_data",
    "prompt_embedding_table",
    "mrope_rotary_cos_sin",
    "encoder_tokens",
    "encoder_input_features",
    "cross_attention_mask",
    "position_ids",
)


def root_of(request: Any) -> bytes | None:
    """The root of a request's chain; None when its tokens do not tell its KV, or that cannot be told."""
    try:
        if any(getattr(request, name, None) is not None for name in _BEYOND_TOKENS):
            return None
        salts = [getattr(request, name, None) for name in ("cache_salt", "cache_salt_id")]
    except Exception:  # the engine's bindings may refuse an attribute; then it cannot be told
        return None
    if salts == [None, None]:
        return PLAIN_ROOT
    texts = [f"{type(salt).__name__} {salt}".encode() for salt in salts]
    return hashlib.sha256(LABEL + b"".join(struct.pack("<I", len(text)) + text for text in texts)).digest()


def flags_of(root: bytes) -> int:
    """A salted page comes back at a request's demand only: a warm-up request could not name the salt."""
    return 0 if root == PLAIN_ROOT else LAZY_ONLY


def page_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """`parent`: the key of the page before, or the root. Raises struct.error for a token that is no u32."""
    return hashlib.sha256(LABEL + parent + struct.pack(f"<{len(tokens)}I", *tokens)).digest()


def chain(root: bytes, tokens: Sequence[int], page_tokens: int, page_count: int) -> list[bytes]:
    """The keys of the first `page_count` pages, as far as the tokens reach."""
    keys: list[bytes] = []
    for start in range(0, min(page_count, len(tokens) // page_tokens) * page_tokens, page_tokens):
        keys.append(page_key(keys[-1] if keys else root, tokens[start : start + page_tokens]))
    return keys
