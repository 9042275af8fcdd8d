"""A store of another size has the pages that fit, and the pinned ones in any case."""

from __future__ import annotations

from pathlib import Path

import pytest
from keeper_samples import Desk, key, put, put_chain, stored, with_desk
from rekindle.keeper.gate import Gate, Mode
from rekindle.keeper.refusals import NotNowError, RequestError
from rekindle.store.check import find_violations
from rekindle_plugins.contract.errors import StoreFullError, UnavailableError


def test_a_larger_store_has_every_page_with_its_bytes_pins_and_order(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        put_chain(store, "abcd")
        put_chain(store, "xy", parent="b")
        put(store, "c", group=1)
        desk.marks.pin_session(key("d").hex())
        before = [s.last_used_unix for s in (await desk.inventory.sessions("", 9, ""))[0]]
        done = await desk.resizing.resize("", 1 << 18)
        fresh = desk.inventory.only("", "look")
        assert fresh is not store
        assert (done.page_count, done.evicted_count) == (7, 0)
        assert done.before_bytes < 1 << 16 < done.after_bytes <= 1 << 18
        assert fresh.arena.geometry.file_bytes == done.after_bytes
        assert (stored(fresh, "abcdxy"), stored(fresh, "c", group=1)) == ("abcdxy", "c")
        assert desk.inventory.session(key("d").hex(), with_tokens=False).pinned
        assert [s.last_used_unix for s in (await desk.inventory.sessions("", 9, ""))[0]] == before
        assert find_violations(fresh.catalog) == []
        assert [path.name for path in tmp_path.glob("*.arena*")] == [fresh.arena.path.name]

    with_desk(tmp_path, work)


def test_a_smaller_store_keeps_what_is_pinned_and_then_what_was_used_last(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        put_chain(store, "abc")
        desk.marks.pin_session(key("c").hex())
        for page in range(100):
            put(store, page)
        put_chain(store, "xyz")
        done = await desk.resizing.resize("", 1 << 15)
        fresh = desk.inventory.only("", "look")
        assert done.evicted_count > 0
        assert done.page_count == fresh.catalog.counters().stored == fresh.catalog.counters().slot_count
        assert stored(fresh, "abcxyz") == "abcxyz"
        assert fresh.catalog.lookup(key(0)) is None
        assert find_violations(fresh.catalog) == []

    with_desk(tmp_path, work, size_bytes=1 << 17)


def test_pinned_pages_that_would_not_fit_and_sizes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        for page in range(100):
            put(store, page)
            desk.marks.pin_page(key(page).hex())
        with pytest.raises(StoreFullError, match="pinned"):
            await desk.resizing.resize("", 1 << 15)
        with pytest.raises(StoreFullError, match="fewer than"):
            await desk.resizing.resize("", 1 << 10)
        with pytest.raises(RequestError):
            await desk.resizing.resize("", 0)
        assert desk.inventory.only("", "look") is store
        assert store.catalog.counters().stored == 100

    with_desk(tmp_path, work, size_bytes=1 << 17)


def test_a_store_that_an_engine_uses_is_not_exchanged_under_it(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        used = await desk.stores.acquire(store.identity, store.page)
        with pytest.raises(NotNowError, match="come or gone"):
            await desk.resizing.resize("", 1 << 18)
        assert desk.inventory.only("", "look") is used is store
        assert not list(tmp_path.glob("*.resizing*"))

    with_desk(tmp_path, work)


def test_what_a_killed_resize_left_behind_is_removed(tmp_path: Path) -> None:
    (tmp_path / "ab.arena.resizing").write_bytes(b"x")
    (tmp_path / "ab.arena.resizing.new").write_bytes(b"x")

    async def work(desk: Desk) -> None:
        await desk.open()
        assert not list(tmp_path.glob("*.resizing*"))

    with_desk(tmp_path, work)


def test_a_draining_sidecar_takes_no_engine_and_a_paused_one_checkpoints_nothing() -> None:
    gate = Gate()
    gate.check_admission("process 1")
    assert gate.is_open
    gate.set(Mode.PAUSED)
    assert not gate.is_open
    gate.check_admission("process 1")
    gate.set(Mode.DRAINING)
    assert gate.is_open
    with pytest.raises(UnavailableError, match="draining"):
        gate.check_admission("process 1")
