"""The open arenas, while one of them is being opened in a thread."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from rekindle.keeper.stores import Stores
from rekindle.store import PageGeometry, Store
from rekindle.store import store as store_module
from rekindle.store.store import OpenedArena
from rekindle_plugins.contract import Identity
from rekindle_plugins.contract.identity import REQUIRED
from rekindle_plugins.contract.journal import ROOT

IDENTITY = Identity.of(dict.fromkeys(REQUIRED, "x"))
PAGE = PageGeometry(64, 1, 4)
DEADLINE_S = 20.0


class SlowStore(Store):
    """Opens an arena, and returns when the test says so."""

    def __init__(self, directory: Path, store_size_bytes: int) -> None:
        super().__init__(directory, store_size_bytes)
        self.opened, self.may_return = threading.Event(), threading.Event()

    def open(self, *args: Any) -> OpenedArena:
        found = super().open(*args)
        self.opened.set()
        assert self.may_return.wait(DEADLINE_S)
        return found


@pytest.fixture
def store(tmp_path: Path) -> SlowStore:
    with Store(tmp_path, 1 << 20) as before:
        opened = before.open(IDENTITY.digest, IDENTITY.to_text(), PAGE)
        slot = opened.catalog.claim(b"k" * 32, ROOT, 0, 0, (1, 2, 3, 4)).slot
        assert slot is not None
        opened.catalog.publish(slot, [b"c" * 16])
    return SlowStore(tmp_path, 1 << 20)


def test_what_is_purged_while_it_is_being_opened_is_gone(store: SlowStore) -> None:
    async def run() -> None:
        stores = Stores(store)
        opening = asyncio.create_task(stores.acquire(IDENTITY, PAGE))
        await asyncio.to_thread(store.opened.wait, DEADLINE_S)
        purging = asyncio.create_task(stores.purge(IDENTITY))
        await asyncio.sleep(0)
        store.may_return.set()
        found = await opening
        await purging
        assert found.catalog.counters().stored == 0
        await stores.close()

    asyncio.run(run())


def test_the_directory_is_let_go_of_only_when_nothing_in_it_is_being_opened(store: SlowStore, tmp_path: Path) -> None:
    async def run() -> None:
        stores = Stores(store)
        opening = asyncio.create_task(stores.acquire(IDENTITY, PAGE))
        await asyncio.to_thread(store.opened.wait, DEADLINE_S)
        closing = asyncio.create_task(stores.close())
        await asyncio.sleep(0)
        assert not closing.done()
        with (tmp_path / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        store.may_return.set()
        await opening
        await closing
        assert stores.open_stores == {}

    asyncio.run(run())


def test_an_arena_that_vanishes_while_they_are_listed_is_left_out(
    store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another opening makes room, or a person tidies up."""
    really_open = os.open

    def open_too_late(path: Any, *args: Any) -> int:
        if str(path).endswith(".arena"):
            os.unlink(path)
        return really_open(path, *args)

    async def run() -> None:
        stores = Stores(store)
        monkeypatch.setattr(store_module.os, "open", open_too_late)
        assert await stores.mismatches(IDENTITY.with_field("model", "y"), lambda _, __: ()) == ()
        monkeypatch.undo()
        await stores.close()

    asyncio.run(run())


def test_other_arenas_are_not_looked_at_while_one_is_being_opened(store: SlowStore) -> None:
    async def run() -> None:
        stores = Stores(store)
        opening = asyncio.create_task(stores.acquire(IDENTITY, PAGE))
        await asyncio.to_thread(store.opened.wait, DEADLINE_S)
        looking = asyncio.create_task(stores.mismatches(IDENTITY, lambda _, __: ()))
        await asyncio.sleep(0)
        assert not looking.done()
        store.may_return.set()
        await opening
        assert await looking == ()
        await stores.close()

    asyncio.run(run())
