"""The commit word: a 64-bit checksum of a record's payload, computable for one record or a million.

Runs in the keeper. A record's payload is read as u32 words x[0..n) and summed as

    word = mix(seed + sum(weight[i] * x[i]))  |  1           (mod 2^64)
    seed = mix(slot + 1 + generation * GOLDEN)

the multilinear hash of Lemire and Kaser, "Strongly universal string hashing is fast" (2014): 32-bit
words under fixed odd 64-bit weights, so that no flip of one or two bits cancels out (64-bit words under
64-bit weights would lose two flipped top bits). ``mix`` is murmur3's fmix64. The slot is in the seed so
that a record never counts in another slot; the generation, so that raising it in the arena's header
invalidates every record in one store. ``| 1`` keeps the word apart from 0, which means free.

It guards against torn writes and decayed memory, not against somebody who forges records.
"""

from __future__ import annotations

import numpy as np

from rekindle.store.page import U32, U64

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_MIX_1 = 0xFF51_AFD7_ED55_8CCD
_MIX_2 = 0xC4CE_B9FE_1A85_EC53
_CHUNK_RECORDS = 8192  # keeps the u64 copy of a chunk within the second-level cache


def make_weights(word_count: int) -> U64:
    """Weights for a payload of ``word_count`` u32 words: part of the format, never to be changed."""
    weights: U64 = np.arange(1, word_count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    odd: U64 = _mix_bulk(weights) | np.uint64(1)
    return odd


def commit_word(payload: U32, weights: U64, slot: int, generation: int) -> int:
    """Commit word of one record; ``payload`` is its (n,) u32 words. About 3 microseconds."""
    total = int(np.dot(payload.astype(np.uint64), weights))
    seed = _mix((slot + 1 + generation * _GOLDEN) & _MASK)
    return _mix((total + seed) & _MASK) | 1


def commit_words(payloads: U32, weights: U64, slots: U32, generation: int) -> U64:
    """Commit words of many records: ``payloads`` is the (slot_count, n) table, ``slots`` names the rows."""
    words = np.empty(len(slots), dtype=np.uint64)
    for start in range(0, len(slots), _CHUNK_RECORDS):
        rows = slots[start : start + _CHUNK_RECORDS]
        # A run of neighbouring rows is read in place; anything else costs a gather.
        is_run = len(rows) > 0 and int(rows[-1]) - int(rows[0]) == len(rows) - 1
        chunk = payloads[int(rows[0]) : int(rows[-1]) + 1] if is_run else payloads[rows]
        words[start : start + len(rows)] = chunk.astype(np.uint64) @ weights
    base = np.uint64((1 + generation * _GOLDEN) & _MASK)
    words += _mix_bulk(slots.astype(np.uint64) + base)
    committed: U64 = _mix_bulk(words) | np.uint64(1)
    return committed


def _mix(value: int) -> int:
    value ^= value >> 33
    value = value * _MIX_1 & _MASK
    value ^= value >> 33
    value = value * _MIX_2 & _MASK
    return value ^ (value >> 33)


def _mix_bulk(values: U64) -> U64:
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(_MIX_1)
    values ^= values >> np.uint64(33)
    values *= np.uint64(_MIX_2)
    values ^= values >> np.uint64(33)
    return values
