"""The presence filter's reader against the keeper's writer, and against memory that is no filter."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle.store.presence import PresenceFilter
from rekindle_plugins.contract import Presence, ProtocolError
from rekindle_plugins.contract.sharedmem import create_sealed

pages = st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 0xFFFF))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(added=st.lists(pages, max_size=40, unique=True), asked=st.lists(pages, max_size=20), data=st.data())
def test_reader_and_writer_agree_on_every_key_and_group(
    added: list[tuple[bytes, int]], asked: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    writer = PresenceFilter(len(added) + 1)
    reader = Presence(os.dup(writer.fd))
    half = len(added) // 2
    for key, group in added[:half]:
        writer.page_added(key, group)
    words = np.frombuffer(b"".join(key for key, _ in added[half:]), np.uint64).reshape(-1, 4)
    writer.pages_added(words, np.array([group for _, group in added[half:]], np.uint16))
    assert all(reader.has(key, group) for key, group in added)
    removed = data.draw(st.lists(st.sampled_from(added), unique=True)) if added else []
    for key, group in removed:
        writer.page_removed(key, group)
    for key, group in [*added, *asked]:
        assert reader.has(key, group) == writer.has(key, group)
    assert all(reader.has(key, group) for key, group in added if (key, group) not in removed)
    writer.pages_cleared()
    assert not any(reader.has(key, group) for key, group in added)
    reader.close()
    writer.close()


def filter_memory(
    magic: bytes = b"RKPF", version: int = 1, k: int = 4, count: int = 64, size: int = 128, sealed: bool = True
) -> int:
    fd = create_sealed("test", size) if sealed else os.memfd_create("test")
    if not sealed:
        os.ftruncate(fd, size)
    os.pwrite(fd, struct.pack("<4sIIIQ", magic, version, k, 0, count)[:size], 0)
    return fd


@pytest.mark.parametrize(
    "header",
    [
        {"magic": b"RKJR"},
        {"version": 2},
        {"k": 3},
        {"count": 0},
        {"count": 63},
        {"count": 128},
        {"count": 1 << 63},
        {"size": 64},
        {"size": 0},
        {"sealed": False},
    ],
    ids=str,
)
def test_memory_that_is_no_filter_is_refused_and_its_descriptor_closed(header: dict[str, int]) -> None:
    fd = filter_memory(**header)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="presence filter"):
        Presence(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_reader_closes_its_descriptor_and_keeps_its_mapping() -> None:
    fd = filter_memory()
    reader = Presence(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert not reader.has(bytes(32))
    reader.close()
