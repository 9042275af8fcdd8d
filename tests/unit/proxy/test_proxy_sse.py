"""Events out of bytes that are cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle.proxy.sse import Event, EventReader, EventTooLongError

STREAM = (
    b'data: {"a":1}\n\n: a comment\n\nevent: x\ndata: one\ndata: two\n\n'
    b"data:tight\n\ndata: [DONE]\r\n\r\ndata: last\n\n"
)
DATA = [b'{"a":1}', None, b"one\ntwo", b"tight", b"[DONE]", b"last"]


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_whole_however_they_arrive(cuts: list[int]) -> None:
    reader, events, places = EventReader(1000), [], [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(places):
        events += reader.feed(STREAM[start:end])
    assert [event.data for event in events] == DATA
    assert b"".join(event.raw for event in events) == STREAM


def test_an_event_beyond_the_limit_is_given_back() -> None:
    reader = EventReader(10)
    assert list(reader.feed(b"data: 1\n\ndata: ")) == [Event(b"data: 1\n\n", b"1")]
    with pytest.raises(EventTooLongError) as caught:
        list(reader.feed(b"x" * 20))
    assert caught.value.rest == b"data: " + b"x" * 20
