"""Export and import: a file is taken as a whole or not at all, whatever was done to it."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from keeper_samples import IDENTITY, OTHER, PAGE, Desk, data, desk_in, key, put, put_chain, silent, stored, with_desk
from rekindle.keeper.export_format import HEADER_BYTES, TAIL_BYTES, Tail, pack_header, pack_page
from rekindle.keeper.refusals import ExportFileError, NotFoundError, NotNowError, RequestError
from rekindle.lifecycle.progress import Exported, Progress
from rekindle.store import PageGeometry
from rekindle.store.check import find_violations
from rekindle_plugins.contract.errors import IdentityError, RekindleError, StoreError, StoreFullError

NAMES = "abcdxy"


async def export(desk: Desk, path: Path, session: str = "", overwrite: bool = False) -> Exported:
    return await desk.exports.export(session, "", path, overwrite, silent)


async def exported(folder: Path, session: str = "") -> Path:
    """A file of the sample pages, or of one session of them."""
    path = folder / "pages.rkx"
    async with desk_in(folder / "source") as desk:
        store = await desk.open()
        put_chain(store, "abcd")
        put_chain(store, "xy", parent="b")
        put(store, "c", group=1)
        await export(desk, path, session)
    return path


def counts(desk: Desk) -> list[tuple[int, int, int, int]]:
    """What an import that failed must leave as it was: stored, claimed, held, waiting."""
    found = [store.catalog.counters() for store in desk.stores.open_stores.values()]
    return [(c.stored, c.claimed, c.held, c.waiting) for c in found]


def test_what_was_exported_is_there_after_the_import(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600, "what people said is for the sidecar's user"
        done = await desk.imports.import_(path, False, silent)
        assert (done.page_count, done.already_stored_count, done.evicted_count) == (7, 0, 0)
        store = desk.inventory.only("", "look")
        assert stored(store, NAMES) == NAMES
        assert stored(store, "c", group=1) == "c"
        assert store.catalog.entry(store.catalog.lookup(key("d"))).tokens == tuple(key("d")[:4])  # type: ignore[arg-type]
        again = await desk.imports.import_(path, False, silent)
        assert (again.page_count, again.already_stored_count) == (0, 7)
        assert find_violations(store.catalog) == []
        assert counts(desk) == [(7, 0, 0, 0)]

    with_desk(tmp_path / "target", work)


def test_a_session_brings_its_own_pages_and_those_of_other_groups(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path, session=key("d").hex())
        done = await desk.imports.import_(path, False, silent)
        store = desk.inventory.only("", "look")
        assert done.page_count == 5
        assert (stored(store, NAMES), stored(store, NAMES, group=1)) == ("abcd", "c")

    with_desk(tmp_path / "target", work)


def test_an_import_goes_on_from_pages_that_are_there(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        store = await desk.open()
        put_chain(store, "ab")
        done = await desk.imports.import_(path, False, silent)
        assert (done.page_count, done.already_stored_count) == (5, 2)
        assert stored(store, NAMES) == NAMES
        assert desk.announced, "an engine may have committed a page while it was claimed"

    with_desk(tmp_path / "target", work)


STEP = 7
"""Which bytes are tried: no field's size is a multiple of it, so that all kinds of bytes come up."""


def test_a_flipped_bit_anywhere_is_noticed_and_nothing_is_taken(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        good = path.read_bytes()
        store = await desk.open()
        put_chain(store, "pq")
        for at in range(0, len(good), STEP):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
            with pytest.raises((ExportFileError, StoreFullError, IdentityError)):
                await desk.imports.import_(path, False, silent)
            assert counts(desk) == [(2, 0, 0, 0)], f"byte {at}"
        assert stored(store, "pq") == "pq"

    with_desk(tmp_path / "target", work)


def test_a_file_cut_anywhere_or_with_something_behind_it_is_not_taken(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        good = path.read_bytes()
        for length in (*range(0, len(good), STEP), len(good) - 1):
            path.write_bytes(good[:length])
            with pytest.raises(ExportFileError):
                await desk.imports.import_(path, False, silent)
        path.write_bytes(good + b"\0")
        with pytest.raises(ExportFileError, match="follows"):
            await desk.imports.import_(path, False, silent)
        path.write_bytes(good[:-TAIL_BYTES] + good[HEADER_BYTES:])
        with pytest.raises(ExportFileError):
            await desk.imports.import_(path, False, silent)
        assert list(desk.stores.open_stores) == [], "and no store was made for it"

    with_desk(tmp_path / "target", work)


def test_random_bytes_are_no_export_file(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = tmp_path / "noise"
        for seed in range(50):
            source = random.Random(seed)
            path.write_bytes(b"RKEXPORT"[: source.randrange(9)] + source.randbytes(source.randrange(400)))
            with pytest.raises(ExportFileError):
                await desk.imports.import_(path, True, silent)

    with_desk(tmp_path / "target", work)


def test_a_path_that_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        os.mkfifo(tmp_path / "fifo")
        for path in (tmp_path / "absent", tmp_path, tmp_path / "fifo", Path("relative")):
            with pytest.raises(RequestError):
                await desk.imports.import_(path, False, silent)
        put(await desk.open(), "a")
        for path in (tmp_path, tmp_path / "fifo", Path("relative")):
            with pytest.raises(RequestError):
                await export(desk, path, overwrite=True)
        with pytest.raises(StoreError, match="No such file"):
            await export(desk, tmp_path / "absent" / "file")
        (tmp_path / "precious").write_text("mine")
        with pytest.raises(RequestError, match="exists"):
            await export(desk, tmp_path / "precious")
        assert (tmp_path / "precious").read_text() == "mine"
        await export(desk, tmp_path / "precious", overwrite=True)
        assert (tmp_path / "precious").read_bytes().startswith(b"RKEXPORT")
        assert not list(tmp_path.glob(".*")), "nothing unfinished is left"

    with_desk(tmp_path / "target", work)


def test_pages_of_another_identity_are_not_mixed_in_and_the_difference_is_named(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        other = await desk.stores.acquire(OTHER, PAGE)
        put(other, "p")
        for may_evict in (False, True):
            with pytest.raises(IdentityError, match="model: stored m, engine has another"):
                await desk.imports.import_(path, may_evict, silent)
        desk.stores.release(other)
        with pytest.raises(IdentityError) as caught:
            await desk.imports.import_(path, False, silent)
        assert "--over" in caught.value.hint
        assert stored(other, "p") == "p"
        done = await desk.imports.import_(path, True, silent)
        assert done.page_count == 7

    with_desk(tmp_path / "target", work)


def test_an_empty_store_of_another_identity_is_in_nobodys_way(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        await desk.open(OTHER)
        assert (await desk.imports.import_(path, False, silent)).page_count == 7

    with_desk(tmp_path / "target", work)


def test_a_store_without_room_takes_nothing_and_makes_room_only_when_it_is_told_to(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        store = await desk.open()
        slots = store.catalog.counters().slot_count
        for page in range(slots - 3):
            put(store, page)
        before = counts(desk)
        with pytest.raises(StoreFullError, match="7 pages are to be stored, there is room for 3"):
            await desk.imports.import_(path, False, silent)
        assert counts(desk) == before
        for page in range(slots - 3):
            store.catalog.pin(store.catalog.lookup(key(page)))  # type: ignore[arg-type]
        with pytest.raises(StoreFullError, match="pinned"):
            await desk.imports.import_(path, True, silent)
        assert counts(desk) == before
        for page in range(slots - 3):
            store.catalog.unpin(store.catalog.lookup(key(page)))  # type: ignore[arg-type]
        done = await desk.imports.import_(path, True, silent)
        assert (done.page_count, done.evicted_count) == (7, 4)
        assert stored(store, NAMES) == NAMES

    with_desk(tmp_path / "target", work)


def test_a_file_of_more_pages_than_could_ever_fit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        async with desk_in(tmp_path / "large", 1 << 20) as large:
            store = await large.open()
            for page in range(400):
                put(store, page)
            await export(large, tmp_path / "large.rkx")
        with pytest.raises(StoreFullError, match="more than"):
            await desk.imports.import_(tmp_path / "large.rkx", True, silent)
        assert list((tmp_path / "target").glob("*.arena")) == []

    with_desk(tmp_path / "target", work)


def test_pages_whose_beginning_is_missing_are_not_taken(tmp_path: Path) -> None:
    """We write no such file; it goes on from pages that the store has, or not at all."""

    async def work(desk: Desk) -> None:
        async with desk_in(tmp_path / "source") as source:
            store = await source.open()
            slots = put_chain(store, "ab")
            header, own = pack_header(IDENTITY, PAGE)
            tail, entry = Tail(), store.catalog.entry(slots[1])
            tail.add(own, len(header))
            head, own = pack_page(entry)
            parts = b"".join(data("b", rank) for rank in range(2))
            tail.add(own, len(head) + len(parts), 1)
            (tmp_path / "part.rkx").write_bytes(header + head + parts + tail.pack())
        with pytest.raises(NotFoundError, match="goes on from page"):
            await desk.imports.import_(tmp_path / "part.rkx", False, silent)
        assert list(desk.stores.open_stores) == []
        store = await desk.open()
        put(store, "a")
        assert (await desk.imports.import_(tmp_path / "part.rkx", False, silent)).page_count == 1
        assert stored(store, "ab") == "ab"
        assert find_violations(store.catalog) == []

    with_desk(tmp_path / "target", work)


def test_who_hangs_up_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        async with desk_in(tmp_path / "source", 1 << 20) as source:
            store = await source.open()
            for page in range(400):
                put(store, page)
            await export(source, tmp_path / "many.rkx")
            for stop_at in (1, 3):
                await cancelled_at(stop_at, lambda tell: source.exports.export("", "", tmp_path / "half", False, tell))
                assert not (tmp_path / "half").exists()
                assert not list(tmp_path.glob(".half*"))
                assert store.catalog.counters().held == 0
        target = await desk.open()
        put_chain(target, "pq")
        for stop_at in (1, 8, 12):
            await cancelled_at(stop_at, lambda tell: desk.imports.import_(tmp_path / "many.rkx", False, tell))
            assert counts(desk) == [(2, 0, 0, 0)]
        assert (await desk.imports.import_(tmp_path / "many.rkx", False, silent)).page_count == 400
        assert find_violations(target.catalog) == []

    with_desk(tmp_path / "target", work, size_bytes=1 << 20)


async def cancelled_at(step: int, work: object) -> None:
    """Starts the work and cancels it when it has told so many steps."""
    seen = 0

    def tell(_: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen == step:
            task.cancel()

    task = asyncio.ensure_future(work(tell))  # type: ignore[operator]
    with pytest.raises(asyncio.CancelledError):
        await task


def test_pages_declared_void_while_they_are_imported_do_not_come_back(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        store = await desk.open()

        def reset(progress: Progress) -> None:
            if progress.pages_total:
                store.catalog.clear()

        with pytest.raises(NotNowError, match="void"):
            await desk.imports.import_(path, False, reset)
        assert counts(desk) == [(0, 0, 0, 0)]

    with_desk(tmp_path / "target", work)


def test_a_file_that_changes_while_it_is_imported_is_not_believed(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        good = path.read_bytes()
        await desk.open()

        def alter(progress: Progress) -> None:
            if not progress.pages_total:
                path.write_bytes(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])

        with pytest.raises(ExportFileError):
            await desk.imports.import_(path, False, alter)
        assert counts(desk) == [(0, 0, 0, 0)]

    with_desk(tmp_path / "target", work)


def test_a_damaged_page_is_not_exported(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        desk.damage(store, put_chain(store, "abc")[1])
        with pytest.raises(StoreError, match="damaged") as caught:
            await export(desk, tmp_path / "file")
        assert "verify" in caught.value.hint
        assert not (tmp_path / "file").exists()

    with_desk(tmp_path / "target", work)


def test_what_is_evicted_before_its_turn_is_left_out_with_what_hangs_on_it(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        for chain in range(100):
            parent = None
            for depth in range(3):
                put(store, f"{chain}.{depth}", parent)
                parent = f"{chain}.{depth}"

        def evict(_: Progress) -> None:
            for _ in range(40):
                store.catalog.evict_oldest()

        done = await desk.exports.export("", "", tmp_path / "file", False, evict)
        assert done.skipped_count > 0
        assert done.page_count + done.skipped_count == 300
        await store_is_empty_again(desk)
        assert (await desk.imports.import_(tmp_path / "file", False, silent)).page_count == done.page_count
        assert find_violations(store.catalog) == []

    with_desk(tmp_path / "target", work, size_bytes=1 << 18)


async def store_is_empty_again(desk: Desk) -> None:
    done = await desk.marks.evict_oldest("", None)
    assert done.kept_count == 0


def test_another_page_geometry_of_the_same_identity_is_refused(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = await exported(tmp_path)
        await desk.open(IDENTITY, PageGeometry(96, 2, 5))
        with pytest.raises(RekindleError):
            await desk.imports.import_(path, False, silent)

    with_desk(tmp_path / "target", work)
