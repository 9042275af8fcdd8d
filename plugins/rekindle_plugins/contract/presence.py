"""The presence filter: which pages the store has, as the engine's scheduling thread may ask without waiting.

A counting Bloom filter in shared memory, written by the keeper, read here. "No" may lag behind a fresh checkpoint and
"yes" may be wrong for one page in some hundreds: it is a hint that decides whether a load is tried. The load itself
checks everything, and a failed load is recomputed.

    offset  size  field                        memfd, written by the keeper alone
         0     4  magic  "RKPF"
         4     4  version (1)
         8     4  k (4)
        12     4  reserved
        16     8  counter count, a power of two
        64     n  counters (u8)

Counter positions of (key, group): the key's four little-endian u64 words, each XOR group · 0x9E3779B97F4A7C15 mod 2^64,
each masked to the counter count. Keys are digests, so their words are already uniform.
"""

from __future__ import annotations

import mmap
import os
import struct

from rekindle_plugins.contract.errors import ProtocolError
from rekindle_plugins.contract.sharedmem import map_shared, require_sealed

MAGIC = b"RKPF"
VERSION = 1
K = 4
HEADER_BYTES = 64
GROUP_MULTIPLIER = 0x9E3779B97F4A7C15
_HEADER = struct.Struct("<4sIIIQ")
_WORDS = struct.Struct("<4Q")
_U64 = (1 << 64) - 1


class Presence:
    """Read-only view of the keeper's presence filter."""

    def __init__(self, fd: int) -> None:
        """Takes over `fd`, whatever happens. Raises ProtocolError when the memory is not a filter of this version."""
        try:
            size = require_sealed(fd, "presence filter")
            if size < HEADER_BYTES + 1:
                raise ProtocolError("attach", "presence filter", f"{size} bytes are too few")
            magic, version, k, _, count = _HEADER.unpack(os.pread(fd, _HEADER.size, 0))
            whole = count > 0 and not count & (count - 1) and HEADER_BYTES + count <= size
            if magic != MAGIC or version != VERSION or k != K or not whole:
                problem = f"header {(magic, version, k, count)} is not understood"
                raise ProtocolError("attach", "presence filter", problem)
            self._mapping = map_shared(fd, HEADER_BYTES + count, "presence filter", mmap.PROT_READ)
        finally:
            os.close(fd)
        self._mask = count - 1

    def has(self, key: bytes, group: int = 0) -> bool:
        """True when the store probably has the page. About a microsecond."""
        twist = group * GROUP_MULTIPLIER & _U64
        mapping, mask = self._mapping, self._mask
        a, b, c, d = _WORDS.unpack(key)
        return bool(
            mapping[HEADER_BYTES + ((a ^ twist) & mask)]
            and mapping[HEADER_BYTES + ((b ^ twist) & mask)]
            and mapping[HEADER_BYTES + ((c ^ twist) & mask)]
            and mapping[HEADER_BYTES + ((d ^ twist) & mask)]
        )

    def close(self) -> None:
        self._mapping.close()
