"""The presence filter, read by the engine's own reader."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest
from driving.store_samples import key
from rekindle.store import PresenceFilter
from rekindle_plugins.contract.presence import Presence


def words(*names: object) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    return np.frombuffer(b"".join(map(key, names)), dtype=np.uint64).reshape(len(names), 4)


def test_the_engines_reader_sees_what_the_keeper_stored() -> None:
    writer = PresenceFilter(1000)
    reader = Presence(os.dup(writer.fd))
    writer.page_added(key("a"), 2)
    assert reader.has(key("a"), 2)
    assert not reader.has(key("a"), 0)
    writer.pages_added(words("b", "c"), np.array([0, 1], np.uint16))
    assert [reader.has(key("b"), 0), reader.has(key("c"), 1), reader.has(key("c"), 0)] == [True, True, False]
    writer.page_removed(key("b"), 0)
    assert not reader.has(key("b"), 0)
    writer.pages_cleared()
    assert not reader.has(key("c"), 1)
    reader.close()
    writer.close()


def test_bulk_and_single_counting_agree() -> None:
    one, many = PresenceFilter(4), PresenceFilter(4)  # so small that counters are shared
    names = list(range(400))
    groups = np.arange(400, dtype=np.uint16) % 3
    for name in names:
        one.page_added(key(name), name % 3)
    many.pages_added(words(*names), groups)
    assert bytes(one._items) == bytes(many._items)
    for name in names[:300]:
        one.page_removed(key(name), name % 3)
    many.pages_removed(words(*names[:300]), groups[:300])
    assert bytes(one._items) == bytes(many._items)


def test_a_counter_that_reached_its_end_sticks() -> None:
    presence = PresenceFilter(100)
    for _ in range(300):
        presence.page_added(key("a"), 0)
    for _ in range(300):
        presence.page_removed(key("a"), 0)
    assert presence.has(key("a"))
    presence.pages_removed(words(*["a"] * 300), np.zeros(300, np.uint16))
    assert presence.has(key("a"))


def test_the_engine_cannot_shrink_or_write_the_filter() -> None:
    presence = PresenceFilter(100)
    with pytest.raises(PermissionError):
        os.ftruncate(presence.fd, 64)
    with pytest.raises(PermissionError):
        mmap.mmap(presence.fd, 64)
    presence.page_added(key("still writable here"), 0)
