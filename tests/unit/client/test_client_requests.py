"""Which requests a leader tells of, and to whom."""

from __future__ import annotations

import hashlib
import json

from rekindle_plugins.client.requests import MAX_ID_CHARS, MAX_KNOWN, MAX_NEW, RequestNames
from rekindle_plugins.contract.wire import MAX_PACKET_BYTES


def key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_a_request_is_told_once_with_the_first_page_that_it_computed() -> None:
    names = RequestNames()
    names.add("one", key("a"))
    names.add("one", key("b"))
    names.add("", key("c"))
    names.add("two", key("d"))
    assert names.take() == [["one", key("a").hex()], ["two", key("d").hex()]]
    names.add("one", key("e"))
    assert names.take() == []


def test_nothing_grows_without_bound_and_a_message_always_fits_its_packet() -> None:
    names = RequestNames()
    for number in range(2 * MAX_KNOWN):
        names.add(f"{number:06}" + "\x00" * 10_000, key(str(number)))
    rows = names.take()
    assert len(rows) == MAX_NEW
    assert len(names._known) == MAX_KNOWN
    assert all(len(request_id) == MAX_ID_CHARS for request_id, _ in rows)
    assert len(json.dumps({"type": "requests", "requests": rows})) < MAX_PACKET_BYTES
