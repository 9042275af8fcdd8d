"""Which ended requests' blocks are kept until they are copied, and when they are let go of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rekindle_plugins.tensorrt_llm import holds as holds_module
from rekindle_plugins.tensorrt_llm.holds import Holds, Seen

KEYS = [bytes([index]) * 32 for index in range(8)]


class Engine:
    """What `Holds` is told by, and tells."""

    def __init__(self) -> None:
        self.stored: set[bytes] = set()
        self.gone: list[int] = []
        self.holds = Holds(self.stored.__contains__, self.gone.extend)

    def run(self, request_id: int, pages: Sequence[int], is_linked: bool = True) -> bool:
        for key, page in zip(KEYS, pages, strict=False):
            self.holds.computed(key, page)
        return self.holds.end(request_id, pages, KEYS[: len(pages)], is_linked)


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_blocks_are_kept_until_all_of_them_are_stored(engine: Engine) -> None:
    assert engine.run(1, [10, 11])
    assert engine.holds.report([1]) == []
    engine.stored.add(KEYS[0])
    engine.holds.expire(True)
    assert (engine.gone, engine.holds.report([])) == ([], [])
    engine.stored.add(KEYS[1])
    engine.holds.expire(True)
    assert (engine.gone, engine.holds.report([])) == ([10, 11], [1])


def test_a_request_is_not_named_before_the_engine_has_asked_for_it(engine: Engine) -> None:
    engine.run(1, [10])
    engine.stored.update(KEYS)
    engine.holds.expire(True)
    assert [engine.holds.report([]), engine.holds.report([1]), engine.holds.report([])] == [[], [1], []]


def test_blocks_are_not_kept_for_a_sidecar_that_is_away_or_does_not_copy(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not engine.run(1, [10], is_linked=False)
    assert engine.gone == [10]
    monkeypatch.setattr(holds_module, "HOLD_S", 0.0)
    other = Engine()
    assert other.run(2, [20])
    other.holds.expire(True)
    assert other.gone == [20]


def test_a_stored_block_and_a_partial_one_are_let_go_of_at_once(engine: Engine) -> None:
    engine.stored.add(KEYS[0])
    for key, page in zip(KEYS, [10, 11], strict=False):
        engine.holds.computed(key, page)
    assert engine.holds.end(1, [10, 11, 12], KEYS[:2], True)
    assert engine.gone == [10, 12]


def test_a_block_that_the_engines_cache_may_have_twice_is_never_kept(engine: Engine) -> None:
    """It pins the one that it has, and frees ours."""
    assert engine.run(1, [10])
    assert not engine.run(2, [20]), "computed before"
    other = Engine()
    other.holds.computed(KEYS[0], 10)
    other.holds.computed(KEYS[0], 20)
    assert not other.holds.end(1, [10], KEYS[:1], True), "computed by two at once: either may be the cache's"
    assert not other.holds.end(2, [20], KEYS[:1], True)
    assert other.gone == [10, 20]


def test_a_block_that_was_found_in_the_engines_cache_is_kept_however_often_it_was_computed(engine: Engine) -> None:
    assert not engine.run(1, [10], is_linked=False)
    engine.holds.found(KEYS[0], 10)
    engine.holds.computed(KEYS[0], 20)
    assert not engine.holds.end(2, [20], KEYS[:1], True)
    assert engine.holds.end(3, [10], KEYS[:1], True)


def test_a_block_that_two_requests_share_is_one_block(engine: Engine) -> None:
    engine.holds.computed(KEYS[0], 10)
    engine.holds.computed(KEYS[0], 10)
    assert engine.holds.end(1, [10], KEYS[:1], True)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=50))
def test_what_was_there_is_never_forgotten(keys: list[bytes]) -> None:
    seen = Seen()
    for key in keys:
        seen.add(key)
    assert all(seen.add(key) for key in keys)
