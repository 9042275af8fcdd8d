"""A small decoder-only transformer: RMSNorm, RoPE, multi-head attention, SwiGLU. NumPy, float32, no batch.

Runs on the engine thread. Weights come from a seed or from an .npz file.

The same prefix gives bitwise the same KV and the same next token, however the work was cut into chunks and
whatever else ran beside it. Floating-point sums depend on the shapes BLAS is given, so every shape here is a
function of the position alone: the model always works on one whole page of rows, where a token's row is its
offset in the page, and attends to a whole number of pages. Rows that are not due yet (or already done) are
zeros and masked out. Adding ±0 to a sum that began at +0 changes no bit of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache as cached
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nano_engine.cache import FloatArray, KVCache, PageIds

VOCAB_SIZE = 256
"""Byte-level: a token is a byte."""

FIRST_PRINTABLE, LAST_PRINTABLE = 32, 126
"""Only printable ASCII is ever generated, so that text sent back as the next turn's prompt is the same tokens."""

ROPE_BASE = 10_000.0
RMS_EPSILON = np.float32(1e-6)
WEIGHT_GAIN, QUERY_GAIN = 1.5, 3.0
"""Large enough that greedy text does not fall into a loop, and that every page of the past matters to it."""


class WeightsError(ValueError):
    """A weights file that does not fit the configured model."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model, as counts."""

    layers: int = 2
    heads: int = 4
    head_dim: int = 16
    mlp_width: int = 128

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.head_dim, self.mlp_width) < 1 or self.head_dim % 2:
            raise ValueError(f"model sizes must be positive and head_dim even, got {self}")

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


class Layer(NamedTuple):
    """One layer's weights. Inputs are rows, so a projection is `x @ w`."""

    qkv: FloatArray  # (width, 3 * width)
    attention_out: FloatArray  # (width, width)
    gate_up: FloatArray  # (width, 2 * mlp_width)
    down: FloatArray  # (mlp_width, width)


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Every tensor by name, in the order in which a seed draws them."""
    width, mlp = config.width, config.mlp_width
    shapes = {"embed": (VOCAB_SIZE, width)}
    for index in range(config.layers):
        shapes[f"layer{index}.qkv"] = (width, 3 * width)
        shapes[f"layer{index}.attention_out"] = (width, width)
        shapes[f"layer{index}.gate_up"] = (width, 2 * mlp)
        shapes[f"layer{index}.down"] = (mlp, width)
    shapes["head"] = (width, VOCAB_SIZE)
    return shapes


def draw_weights(config: ModelConfig, seed: int) -> dict[str, FloatArray]:
    """Random weights, a function of `config` and `seed` alone."""
    source = np.random.Generator(np.random.PCG64(seed))
    weights: dict[str, FloatArray] = {}
    for name, (rows, columns) in weight_shapes(config).items():
        scale = 1.0 if name == "embed" else WEIGHT_GAIN * rows**-0.5
        weights[name] = source.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)
        if name.endswith(".qkv"):
            weights[name][:, : config.width] *= np.float32(QUERY_GAIN)
    return weights


def load_weights(path: Path, config: ModelConfig) -> dict[str, FloatArray]:
    """Read an .npz written by `save_weights`. Raises OSError, or WeightsError when it is of another model."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            weights = {name: np.asarray(stored[name]) for name in stored.files}
    except (ValueError, EOFError) as error:
        raise WeightsError(f"load weights {path}: not an .npz file ({error})") from error
    for name, shape in weight_shapes(config).items():
        found = weights.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            have = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise WeightsError(f"load weights {path}: {name} should be float32 {shape}, found {have}")
    return weights


def save_weights(path: Path, weights: Mapping[str, FloatArray]) -> None:
    np.savez(path, **dict(weights))  # type: ignore[arg-type]  # the stub takes names for its own flags


def rms_norm(x: FloatArray) -> FloatArray:
    """Rows scaled to unit mean square; the learned gain of a trained model would be all ones here."""
    normed: FloatArray = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + RMS_EPSILON)
    return normed


class Model:
    """The weights, and the one operation on them: run some tokens of one sequence against its pages."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, FloatArray], max_context: int) -> None:
        """`max_context`, in tokens, sizes the table of rotary angles and nothing else."""
        self.config = config
        self.embed = weights["embed"]
        self.head = weights["head"]
        self.layers = [
            Layer(*(weights[f"layer{index}.{name}"] for name in Layer._fields)) for index in range(config.layers)
        ]
        self.digest = _digest(config, weights)
        self._cos, self._sin = _rotary_tables(config.head_dim, max_context)
        self._mute = np.full(VOCAB_SIZE, -np.inf, dtype=np.float32)
        self._mute[FIRST_PRINTABLE : LAST_PRINTABLE + 1] = 0.0

    def forward(self, cache: KVCache, page_ids: Sequence[int], start: int, tokens: Sequence[int]) -> FloatArray:
        """Write the KV of `tokens`, at positions `start…`, into the sequence's pages.

        The pages must hold the KV of every position before `start`, and reach past the last token. Returns
        the last token's final hidden row, (width,).
        """
        page_tokens = cache.geometry.page_tokens
        pages = np.asarray(page_ids, dtype=np.intp)
        hidden = np.zeros(self.config.width, dtype=np.float32)
        done = 0
        while done < len(tokens):
            position = start + done
            count = min(page_tokens - position % page_tokens, len(tokens) - done)
            sequence = pages[: position // page_tokens + 1]
            hidden = self._run_page(cache, sequence, position, tokens[done : done + count])
            done += count
        return hidden

    def next_token(self, hidden: FloatArray) -> int:
        """The greedy choice after `hidden`."""
        logits = rms_norm(hidden) @ self.head + self._mute
        return int(np.argmax(logits))

    def _run_page(self, cache: KVCache, pages: PageIds, start: int, tokens: Sequence[int]) -> FloatArray:
        """Run tokens that lie in one page, the last of `pages`."""
        page_tokens, width = cache.geometry.page_tokens, self.config.width
        first_row = start % page_tokens
        rows = slice(first_row, first_row + len(tokens))
        page_start = start - first_row
        x = np.zeros((page_tokens, width), dtype=np.float32)
        x[rows] = self.embed[list(tokens)]
        cos = self._cos[page_start : page_start + page_tokens]
        sin = self._sin[page_start : page_start + page_tokens]
        for index, layer in enumerate(self.layers):
            qkv = rms_norm(x) @ layer.qkv
            q = self._rotate(qkv[:, :width], cos, sin)
            k = self._rotate(qkv[:, width : 2 * width], cos, sin)
            cache.write(int(pages[-1]), index, first_row, k[rows], qkv[rows, 2 * width :])
            keys, values = cache.gather(pages, index, start + len(tokens))
            # The norm keeps attention's share of the residual the same however many tokens it averages over:
            # a single wrong page, far back, changes what comes next.
            x = x + rms_norm(self._attend(q, keys, values)) @ layer.attention_out
            gate, up = np.split(rms_norm(x) @ layer.gate_up, 2, axis=1)
            x = x + (gate / (1.0 + np.exp(-gate)) * up) @ layer.down
        last: FloatArray = x[rows.stop - 1]
        return last

    def _rotate(self, x: FloatArray, cos: FloatArray, sin: FloatArray) -> FloatArray:
        """Rotary position embedding of (rows, width), by halves of a head."""
        heads = x.reshape(len(x), self.config.heads, self.config.head_dim)
        half = self.config.head_dim // 2
        left, right = heads[..., :half], heads[..., half:]
        turned = np.concatenate((left * cos - right * sin, right * cos + left * sin), axis=-1)
        return turned.reshape(len(x), -1)

    def _attend(self, q: FloatArray, keys: FloatArray, values: FloatArray) -> FloatArray:
        """Causal attention of the last page's rows, (page_tokens, width), to all rows of all pages."""
        heads, head_dim, rows = self.config.heads, self.config.head_dim, len(q)
        q = (q * np.float32(head_dim**-0.5)).reshape(rows, heads, head_dim).transpose(1, 0, 2)
        keys = keys.reshape(-1, heads, head_dim).transpose(1, 2, 0)
        values = values.reshape(-1, heads, head_dim).transpose(1, 0, 2)
        scores: FloatArray = q @ keys  # (heads, rows, sequence)
        scores[:, :, -rows:] += _future(rows)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        total = scores.sum(axis=-1)[:, :, None]
        mixed: FloatArray = (scores @ values) / total
        merged: FloatArray = mixed.transpose(1, 0, 2).reshape(rows, heads * head_dim)
        return merged


@cached
def _future(rows: int) -> FloatArray:
    """-inf where a row of a page would look at a later row of the same page."""
    return np.triu(np.full((rows, rows), -np.inf, dtype=np.float32), k=1)


def _rotary_tables(head_dim: int, max_context: int) -> tuple[FloatArray, FloatArray]:
    """cos and sin, each (positions, 1, head_dim / 2)."""
    # Padded, so that no position's angle is computed in a SIMD loop's tail in one configuration only.
    positions = np.arange(-(-max_context // 1024) * 1024, dtype=np.float64)
    frequencies = ROPE_BASE ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angles = np.outer(positions, frequencies)[:, None, :]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _digest(config: ModelConfig, weights: Mapping[str, FloatArray]) -> str:
    """Hex sha256 over everything that decides a token's KV, except the page size."""
    digest = hashlib.sha256(repr(config).encode())
    for name in weight_shapes(config):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()
