"""The paged KV cache: one shared-memory file, mapped once, seen as a numpy array.

Lives in the engine process; written by the engine thread only. Another process that was handed `fd` may map
the same memory and read a page's bytes while the engine runs, and after the engine has been killed.

One page's bytes are contiguous (`page_bytes` of them, at `page_id * page_bytes`), float32, C order:

    page ── layer 0 ── K ── token 0 ── head 0 … head H-1      H * head_dim floats
         │          │    └─ token 1 …
         │          └─ V ── token 0 …
         └─ layer 1 …
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
PageIds = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Geometry:
    """What a page's bytes mean. All counts; the element type is float32."""

    pages: int
    layers: int
    page_tokens: int
    heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """Floats of one token's K (or V) in one layer."""
        return self.heads * self.head_dim

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(pages, layers, K or V, page_tokens, heads * head_dim)."""
        return (self.pages, self.layers, 2, self.page_tokens, self.width)

    @property
    def page_bytes(self) -> int:
        return self.layers * 2 * self.page_tokens * self.width * np.dtype(np.float32).itemsize

    @property
    def max_context(self) -> int:
        """The longest sequence, in tokens, that fits when it has the cache to itself."""
        return self.pages * self.page_tokens


class KVCache:
    """All pages of one engine. `array` has shape `geometry.shape`; `model_digest` names the weights whose
    KV it holds (hex sha256), so that pages are never given to another model.
    """

    def __init__(self, geometry: Geometry, model_digest: str) -> None:
        """Reserve the memory. Raises OSError if the machine cannot give it."""
        self.geometry = geometry
        self.model_digest = model_digest
        self.total_bytes = geometry.pages * geometry.page_bytes
        self.fd = os.memfd_create("nano-kv-cache", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # Reserved up front and sealed in size: nobody who maps it can meet SIGBUS later.
        os.posix_fallocate(self.fd, 0, self.total_bytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._mapping = mmap.mmap(self.fd, self.total_bytes)
        self.array: FloatArray = np.frombuffer(self._mapping, dtype=np.float32).reshape(geometry.shape)
        # One row is one page's K or V of one layer. Fresh arrays of this size would cost more in page faults
        # than the copying itself.
        self._rows = self.array.reshape(geometry.pages * geometry.layers * 2, -1)
        self._gathered: FloatArray = np.zeros((2, geometry.pages, self._rows.shape[1]), dtype=np.float32)

    @property
    def page_bytes(self) -> int:
        return self.geometry.page_bytes

    def page(self, page_id: int) -> memoryview:
        """One page's bytes, writable, no copy."""
        return memoryview(self._mapping)[page_id * self.page_bytes : (page_id + 1) * self.page_bytes]

    def write(self, page_id: int, layer: int, first_row: int, k: FloatArray, v: FloatArray) -> None:
        """Store K and V, each (rows, width), in rows `first_row…` of one page."""
        rows = slice(first_row, first_row + len(k))
        self.array[page_id, layer, 0, rows] = k
        self.array[page_id, layer, 1, rows] = v

    def gather(self, page_ids: PageIds, layer: int, tokens: int) -> tuple[FloatArray, FloatArray]:
        """Copy K and V of one sequence, each (len(page_ids) * page_tokens, width), out of its pages.

        Rows past `tokens` are zero whatever the last page still holds from its former owner. Both arrays are
        good until the next call.
        """
        count = len(page_ids)
        first_row = (page_ids * self.geometry.layers + layer) * 2
        for k_or_v, rows in enumerate(self._gathered):
            np.take(self._rows, first_row + k_or_v, axis=0, out=rows[:count], mode="clip")
        keys, values = self._gathered[:, :count].reshape(2, -1, self.geometry.width)
        keys[tokens:] = 0.0
        values[tokens:] = 0.0
        return keys, values

    def close(self) -> None:
        """Close the descriptor. The mapping goes when the last array over it does."""
        os.close(self.fd)
