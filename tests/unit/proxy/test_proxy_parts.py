"""The small parts: what is passed on of a message's head, and what is counted of requests that wait and are kept."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from rekindle.proxy.headers import end_to_end, for_rewritten
from rekindle.proxy.limits import Limits
from rekindle.proxy.room import FullError, Room


def test_what_is_for_one_hop_stays_behind_and_all_else_goes_on() -> None:
    head = CIMultiDict(
        [
            ("Host", "a"),
            ("Authorization", "Bearer x"),
            ("Connection", "keep-alive, X-Mine"),
            ("X-Mine", "1"),
            ("Keep-Alive", "3"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
            ("X-Twice", "1"),
            ("X-Twice", "2"),
        ]
    )
    passed = end_to_end(CIMultiDictProxy(head))
    assert list(passed.items()) == [("Host", "a"), ("Authorization", "Bearer x"), ("X-Twice", "1"), ("X-Twice", "2")]
    assert len(head) == 9, "the request's own head is left alone"


def test_a_body_that_we_write_has_our_length_and_our_encoding() -> None:
    head = CIMultiDict({"Content-Length": "3", "Accept-Encoding": "gzip", "Content-Type": "text/plain", "X": "1"})
    assert dict(for_rewritten(head)) == {"X": "1", "content-type": "application/json"}


def test_so_many_may_wait_and_no_more() -> None:
    room = Room(Limits(waiting=2))
    with room.wait(), room.wait():
        with pytest.raises(FullError), room.wait():
            pass
        assert room.waiting == 2
    assert room.waiting == 0


def test_journals_are_counted_while_they_are_there() -> None:
    room = Room(Limits(protected=2, journals_bytes=100))
    with room.keeping() as one, room.protecting():
        one.grow_to(60)
        assert room.can_protect
        with room.keeping() as two, room.protecting():
            two.grow_to(50)
            assert not room.can_protect, "too many, and too much"
        assert room.journal_bytes == 60
        one.grow_to(120)
        assert not room.can_protect
        assert not room.is_overfull
        one.grow_to(126)
        assert room.is_overfull
        one.grow_to(20)
        assert room.can_protect
    assert (room.journal_bytes, room.protected) == (0, 0)
