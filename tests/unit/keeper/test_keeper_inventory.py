"""Sessions and pages as an operator sees them, and what pinning and evicting does to them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from keeper_samples import IDENTITY, PAGE, Desk, key, put, put_chain, stored, with_desk
from rekindle.keeper.page_parts import PageParts
from rekindle.keeper.refusals import NotFoundError, NotNowError, RequestError
from rekindle_plugins.contract.errors import StoreError
from rekindle_plugins.contract.identity import Identity


def name(page: str) -> str:
    return key(page).hex()


async def listed(desk: Desk) -> list[str]:
    found, _ = await desk.inventory.sessions("", 100, "")
    return [session.leaf_key for session in found]


def test_a_session_is_a_leaf_and_its_way_to_the_root(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        before = time.time()
        store = await desk.open()
        put_chain(store, "abc")
        put_chain(store, "de", parent="a")
        assert await listed(desk) == [name("e"), name("c")], "the most recently used first"
        session = desk.inventory.session(name("e")[:12], with_tokens=True)
        assert (session.page_count, session.token_count, session.id) == (3, 12, name("e")[:12])
        assert session.size_bytes == 3 * (96 + 64)
        assert session.token_ids == (*key("a")[:4], *key("d")[:4], *key("e")[:4])
        assert before - 1 < session.last_used_unix < time.time() + 1
        assert desk.inventory.session(name("e"), with_tokens=False).token_ids == ()

    with_desk(tmp_path, work)


def test_pages_of_windowed_groups_belong_to_the_chain_of_their_positions(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        put_chain(store, "abc")
        for page in "bcx":
            put(store, page, group=1)
        assert await listed(desk) == [name("c")]
        session = desk.inventory.session(name("c"), with_tokens=False)
        assert (session.page_count, session.size_bytes) == (3, 3 * (96 + 64) + 2 * (40 + 64))

    with_desk(tmp_path, work)


def test_lists_are_cut_into_pages_of_rows_and_miss_nothing(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        for page in "abcdefg":
            put(store, page)
        rows, token, sizes = [], "", []
        while True:
            part, token = await desk.inventory.sessions("", 3, token)
            rows += [session.leaf_key for session in part]
            sizes.append(len(part))
            if not token:
                break
        assert (rows, sizes) == ([name(page) for page in "gfedcba"], [3, 3, 1])
        pages, token = [], ""
        while True:
            found, token = desk.inventory.pages("", "", 2, token)
            pages += [page.key for page in found]
            if not token:
                break
        assert sorted(pages) == sorted(name(page) for page in "abcdefg")

    with_desk(tmp_path, work)


def test_a_sessions_pages_come_from_its_root_on(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        put_chain(store, "abcd")
        first, token = desk.inventory.pages("", name("d"), 3, "")
        rest, end = desk.inventory.pages("", name("d"), 3, token)
        assert [page.key for page in (*first, *rest)] == [name(page) for page in "abcd"]
        assert end == ""
        assert (first[0].child_count, rest[0].child_count) == (1, 0)

    with_desk(tmp_path, work)


@pytest.mark.parametrize("text", ["", "abc", "xyz0", "0" * 65, "../../etc", "ABCD"])
def test_what_is_no_id_is_told_so(tmp_path: Path, text: str) -> None:
    async def work(desk: Desk) -> None:
        put(await desk.open(), "a")
        with pytest.raises(RequestError, match="no id"):
            desk.inventory.session(text, with_tokens=False)

    with_desk(tmp_path, work)


def test_an_unknown_id_is_not_found_and_an_ambiguous_one_is_refused(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open(page=PAGE)
        names = [str(number) for number in range(150)]
        for page in names:
            put(store, page)
        with pytest.raises(NotFoundError):
            desk.inventory.session("0" * 64, with_tokens=False)
        with pytest.raises(NotFoundError):
            desk.inventory.opened("ffff")
        by_start: dict[str, int] = {}
        for page in names:
            by_start[name(page)[:4]] = by_start.get(name(page)[:4], 0) + 1
        twice = [start for start, count in by_start.items() if count > 1]
        for start in twice:
            with pytest.raises(RequestError, match="begin so"):
                desk.inventory.page_of(start)
        for page in names[:20]:
            assert desk.inventory.page_of(name(page)[:33])[1] == store.catalog.lookup(key(page))

    with_desk(tmp_path, work, size_bytes=1 << 18)


@pytest.mark.parametrize("token", ["x", "1.2", "1.2.3.4", "-1.0.0", "9" * 30 + ".1.1"])
def test_a_page_token_of_somebody_else_is_refused(tmp_path: Path, token: str) -> None:
    async def work(desk: Desk) -> None:
        await desk.open()
        with pytest.raises(RequestError, match="page token"):
            desk.inventory.pages("", "", 10, token)
        with pytest.raises(RequestError, match="1 to 1000"):
            await desk.inventory.sessions("", 1001, "")

    with_desk(tmp_path, work)


def test_a_pinned_session_is_not_evicted_and_an_unpinned_one_is(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        put_chain(store, "abc")
        put_chain(store, "xy")
        assert desk.marks.pin_session(name("c")) == 3
        assert desk.inventory.session(name("c"), with_tokens=False).pinned
        with pytest.raises(NotNowError, match="pinned"):
            desk.marks.evict_session(name("c"))
        done = await desk.marks.evict_oldest("", None)
        assert (done.evicted_count, done.kept_count, done.freed_bytes) == (2, 3, 2 * 160)
        assert stored(store, "abcxy") == "abc"
        put(store, "d", "c")
        session = desk.inventory.session(name("d"), with_tokens=False)
        assert (session.pinned, session.pinned_count) == (False, 1), "the conversation went on behind its pin"
        assert desk.marks.unpin_session(name("d")) == 1
        done = desk.marks.evict_session(name("d"))
        assert (done.evicted_count, done.kept_count) == (4, 0)
        assert stored(store, "abcd") == ""

    with_desk(tmp_path, work)


def test_evicting_a_session_leaves_what_another_one_needs(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        put_chain(store, "abc")
        put_chain(store, "de", parent="b")
        done = desk.marks.evict_session(name("c"))
        assert (done.evicted_count, done.kept_count) == (1, 2)
        assert stored(store, "abcde") == "abde"
        held = store.catalog.lookup(key("e"))
        assert held is not None
        store.catalog.hold(held)
        with pytest.raises(NotNowError, match="being read"):
            desk.marks.evict_session(name("e"))
        store.catalog.release(held)

    with_desk(tmp_path, work)


def test_the_oldest_pages_leave_first_and_only_as_many_as_are_asked_for(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        for page in "abcdef":
            put(store, page)
        done = await desk.marks.evict_oldest("", 2)
        assert (done.evicted_count, done.kept_count) == (2, 0)
        assert stored(store, "abcdef") == "cdef"

    with_desk(tmp_path, work)


def test_sizes_of_pages_survive_the_identity_and_a_foreign_text_is_refused() -> None:
    parts = PageParts(((96, 40), (96, 40), (64, 64)))
    assert parts.to_text() == "2*96,40;1*64,64"
    page = type(PAGE)(96, 3, 4)
    fields = dict(IDENTITY.fields)
    assert PageParts.of_identity(Identity.of(fields | {"page_layout": f"x {parts.to_text()}"}), page) == parts
    for text in ("", "x", "x 1*96", "x 3*97", "x 9999*96", "x 3*0", "x 2*96,40;1*64", "x 3*96;", "x 3*9" + "9" * 20):
        with pytest.raises(StoreError):
            PageParts.of_identity(Identity.of(fields | {"page_layout": text or "x"}), page)
