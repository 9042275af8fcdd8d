"""The index against a dict, one by one and in bulk."""

from __future__ import annotations

import numpy as np
from driving.store_samples import key
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle.store.commit_word import commit_word, commit_words, make_weights
from rekindle.store.index import PageIndex, page_hash, page_hashes
from rekindle.store.page import Slot


def crowded_key(number: int) -> bytes:
    """Keys that share their first 8 bytes in fours, so that their hashes collide."""
    return (number // 4).to_bytes(8, "little") + number.to_bytes(24, "little")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 31)), max_size=120))
def test_the_index_finds_what_a_dict_would_find(changes: list[tuple[bool, int]]) -> None:
    index, model = PageIndex(32, crowded_key), {}
    for is_insert, number in changes:
        if is_insert and number not in model:
            index.insert(Slot(number), crowded_key(number), 0)
            model[number] = number
        elif not is_insert and number in model:
            index.remove(Slot(number))
            del model[number]
        for other in range(32):
            assert index.find(crowded_key(other), 0) == model.get(other)


def test_a_bulk_build_finds_all_pages_and_survives_deletions() -> None:
    rng = np.random.default_rng(1)
    count = 3000
    keys = rng.integers(0, 1 << 63, (count, 4), dtype=np.uint64)
    keys[:200, 0] = 5  # collide
    keys[200:260, 0] = np.uint64(-5 & ((1 << 64) - 1))
    groups = rng.integers(0, 3, count).astype(np.uint16)
    index = PageIndex(count, lambda slot: keys[slot].tobytes())
    slots = rng.permutation(count)[: count - 100].astype(np.uint32)
    index.build(slots, page_hashes(keys[slots, 0], groups[slots]))
    found, where = index.find_many(keys, groups, keys)
    assert set(np.flatnonzero(found).tolist()) == set(slots.tolist())
    assert (where[found] == np.flatnonzero(found)).all()
    for slot in slots[::2].tolist():
        index.remove(Slot(slot))
    for slot in range(count):
        is_there = slot in set(slots[1::2].tolist()) if slot % 50 == 0 else None
        got = index.find(keys[slot].tobytes(), int(groups[slot]))
        assert is_there is None or (got == slot) == is_there


def test_runs_over_the_tables_end_wrap_around() -> None:
    words = np.arange(1, 200_000, dtype=np.uint64)
    hashes = page_hashes(words, np.zeros(len(words), np.uint16))
    last = words[np.argsort(hashes)[-6:]]  # six pages whose home is the table's last place
    keys = np.zeros((6, 4), np.uint64)
    keys[:, 0] = last
    index = PageIndex(6, lambda slot: keys[slot].tobytes())
    slots = np.arange(6, dtype=np.uint32)
    index.build(slots, page_hashes(keys[:, 0], np.zeros(6, np.uint16)))
    assert [index.find(one.tobytes(), 0) for one in keys] == list(range(6))
    index.remove(Slot(2))
    assert [index.find(one.tobytes(), 0) for one in keys] == [0, 1, None, 3, 4, 5]


def test_hashes_and_commit_words_are_the_same_one_by_one_and_in_bulk() -> None:
    keys = np.frombuffer(b"".join(key(n) for n in range(50)), dtype=np.uint64).reshape(50, 4)
    groups = np.arange(50, dtype=np.uint16)
    assert page_hashes(keys[:, 0], groups).tolist() == [page_hash(key(n), n) for n in range(50)]
    payloads = keys.view(np.uint32)
    weights = make_weights(8)
    slots = np.array([3, 4, 5, 20, 49], dtype=np.uint32)
    singles = [commit_word(payloads[slot], weights, slot, 9) for slot in slots.tolist()]
    assert commit_words(payloads, weights, slots, 9).tolist() == singles
    assert 0 not in singles


def test_no_flip_of_one_or_two_bits_keeps_the_commit_word() -> None:
    payload = np.frombuffer(key("a")[:12], dtype=np.uint32).copy()
    weights = make_weights(3)
    seen = set()
    flips = [(a, b) for a in range(96) for b in range(a + 1)]
    for a, b in flips:
        flipped = payload.copy()
        for bit in {a, b}:
            flipped[bit // 32] ^= np.uint32(1 << bit % 32)
        seen.add(commit_word(flipped, weights, 0, 0))
    assert len(seen) == len(flips)
    assert commit_word(payload, weights, 0, 0) not in seen
