from __future__ import annotations

import hashlib
import struct

import pytest
from nano_engine.blocks import ROOT_PARENT, NoFreePages, PagePool, page_key


def test_a_key_is_sha256_of_the_parents_key_and_the_tokens() -> None:
    expected = hashlib.sha256(bytes(32) + struct.pack("<3I", 1, 2, 3)).digest()
    assert page_key(ROOT_PARENT, [1, 2, 3]) == expected
    assert page_key(expected, [4]) == hashlib.sha256(expected + struct.pack("<I", 4)).digest()


def test_the_salt_goes_into_the_first_key_only() -> None:
    assert page_key(ROOT_PARENT, [1], "tenant") != page_key(ROOT_PARENT, [1])
    assert page_key(b"p" * 32, [1], "tenant") == page_key(b"p" * 32, [1])


def test_taking_too_many_pages_raises_and_takes_none() -> None:
    pool = PagePool(3)
    pool.take(2)
    with pytest.raises(NoFreePages, match="take 2 pages: only 1 of 3"):
        pool.take(2)
    assert pool.free_count == 1


def test_an_eager_restore_leaves_verified_pages_cached_and_the_rest_blank() -> None:
    pool = PagePool(4)
    taken = pool.take(3)
    first, second = page_key(ROOT_PARENT, [1]), page_key(page_key(ROOT_PARENT, [1]), [2])
    assert pool.register(taken[0], first, ROOT_PARENT, [1])
    assert pool.register(taken[1], second, first, [2])
    pool.release(taken)
    assert (pool.free_count, pool.blank_count) == (4, 2)
    assert pool.match([first, second, b"unknown"]) == taken[:2]
    assert [page.tokens for page in pool.cached()] == [(1,), (2,)]


def test_blank_pages_go_before_cached_ones_and_children_before_parents() -> None:
    pool = PagePool(3)
    parent, child = pool.take(2)
    pool.register(parent, b"parent", ROOT_PARENT, [1])
    pool.register(child, b"child", b"parent", [2])
    pool.release([parent, child])
    assert set(pool.take(1)).isdisjoint({parent, child})
    assert pool.take(1) == [child]
    assert pool.has(b"parent")
    assert not pool.has(b"child")


def test_a_shared_page_is_free_only_when_its_last_holder_lets_go() -> None:
    pool = PagePool(1)
    [page] = pool.take(1)
    pool.register(page, b"key", ROOT_PARENT, [1])
    pool.match([b"key"])
    pool.release([page])
    assert pool.free_count == 0
    pool.release([page])
    assert pool.free_count == 1
    with pytest.raises(ValueError, match="nobody holds it"):
        pool.release([page])


def test_a_second_page_of_the_same_key_stays_private() -> None:
    pool = PagePool(2)
    first, second = pool.take(2)
    assert pool.register(first, b"key", ROOT_PARENT, [1])
    assert not pool.register(second, b"key", ROOT_PARENT, [1])
    pool.release([first, second])
    assert pool.blank_count == 1


def test_forgetting_everything_frees_what_nobody_holds() -> None:
    pool = PagePool(2)
    held, idle = pool.take(2)
    pool.register(held, b"held", ROOT_PARENT, [1])
    pool.register(idle, b"idle", ROOT_PARENT, [2])
    pool.release([idle])
    pool.forget_all()
    assert pool.match([b"held"]) == []
    assert pool.blank_count == 1
    pool.release([held])
    assert pool.blank_count == 2
