"""Page keys: a SHA-256 chain over the tokens.

The engine chains a hash of its own (`compute_block_hash`), the same in every process, but of 64 bits: enough for a
cache that lives as long as one process, too little for one that is handed on. So the key is ours, and the engine's hash
is computed anew from the tokens when a page comes back.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

SCHEME = "sha256 over the parent and the tokens (u32)"


@dataclass(frozen=True)
class PageContent:
    """What a complete page holds: its tokens, behind its parent's. Equal content, equal key."""

    parent: bytes
    tokens: tuple[int, ...]
    key: bytes

    @staticmethod
    def of(parent: bytes, tokens: Sequence[int]) -> PageContent:
        packed = struct.pack(f"<{len(tokens)}I", *tokens)
        return PageContent(parent, tuple(tokens), hashlib.sha256(parent + packed).digest())
