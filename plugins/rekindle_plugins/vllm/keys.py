"""Page keys from vLLM's block hashes.

A block hash chains tokens, adapter name, multimodal hashes and cache salt over the whole prefix. Without an adapter the
key is the hash itself, so that a page can be put back into vLLM's own prefix cache under it. With an adapter the key is
the hash together with the digest of the adapter's weights; such a page comes back only at a request's demand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from rekindle_plugins.contract.journal import LAZY_ONLY, ROOT
from rekindle_plugins.vllm.adapters import Adapters
from rekindle_plugins.vllm.support import Group

KEY_BYTES = 32


class Keys:
    """Keys of requests, per group. Runs on the scheduling thread."""

    def __init__(self, groups: tuple[Group, ...], hash_block_size: int, adapters: Adapters) -> None:
        self._scales = tuple(group.block_size // hash_block_size for group in groups)
        self._windowed = tuple(group.windowed for group in groups)
        self._adapters = adapters

    def secret_of(self, request: Any) -> bytes | None:
        """What must be folded into the keys of a request: nothing, the adapter's digest, or None while unknown."""
        if request.lora_request is None:
            return b""
        return self._adapters.digest(request.lora_request)

    def may_wait_for_secret(self, request: Any) -> bool:
        """Whether the unknown digest of a request's adapter will be there in a moment."""
        return self._adapters.is_pending(request.lora_request)

    def count(self, request: Any, group: int) -> int:
        """Pages of this request whose tokens are known."""
        return len(request.block_hashes) // self._scales[group]

    def key(self, request: Any, group: int, index: int, secret: bytes) -> bytes:
        """The key of page `index`. The last hash within a page covers the whole prefix (BlockHashListWithBlockSize)."""
        return fold(request.block_hashes[(index + 1) * self._scales[group] - 1], secret)

    def parent(self, request: Any, group: int, index: int, secret: bytes) -> bytes:
        """The parent's key. Pages of a windowed group stand alone: their parents leave the engine before they do."""
        if index == 0 or self._windowed[group]:
            return ROOT
        return self.key(request, group, index - 1, secret)


def fold(block_hash: bytes, secret: bytes) -> bytes:
    if secret:
        return hashlib.sha256(secret + block_hash).digest()
    if len(block_hash) > KEY_BYTES:
        return hashlib.sha256(block_hash).digest()
    return bytes(block_hash) if len(block_hash) == KEY_BYTES else block_hash.ljust(KEY_BYTES, b"\0")


def flags(block_hash: bytes, secret: bytes) -> int:
    """Whether the key leads back to vLLM's own hash."""
    return LAZY_ONLY if secret or len(block_hash) != KEY_BYTES else 0


def tokens_of(request: Any, block_size: int, index: int) -> Sequence[int]:
    tokens: Sequence[int] = request.all_token_ids[index * block_size : (index + 1) * block_size]
    return tokens
