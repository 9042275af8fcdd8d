"""Every checksum is looked at, and what is damaged is found, told and dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from keeper_samples import OTHER, Desk, key, put, put_chain, silent, stored, with_desk
from rekindle.keeper.long_work import MAX_AT_ONCE, LongWork, Tell
from rekindle.keeper.refusals import BusyError, NotFoundError, NotNowError, RequestError
from rekindle.keeper.scrub import refuse_restore
from rekindle.lifecycle.progress import Progress
from rekindle_plugins.contract.errors import UnavailableError


def test_a_flipped_bit_is_found_on_its_rank_and_costs_its_page_and_those_behind_it(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        slots = put_chain(store, "abcd")
        put_chain(store, "xy")
        put(store, "b", group=1)
        desk.damage(store, slots[1], rank=1)
        told = await desk.scrub.verify("", "", dry_run=True, tell=silent)
        assert (told.page_count, told.damaged_count, told.dropped_count) == (7, 1, 0)
        (page,) = told.damaged
        assert (page.key, page.ranks) == (key("b").hex(), (1,))
        assert desk.announced == []
        detail = await desk.scrub.inspect(key("x").hex(), with_tokens=True)
        assert (detail.damaged_ranks, detail.token_ids) == ((), tuple(key("x")[:4]))
        plan = await desk.scrub.restore_plan(store, None, lambda engine, other: engine.mismatches(other), silent)
        assert (plan.page_count, plan.rejected) == (4, {"checksum": 1, "parent": 2})
        done = await desk.scrub.verify("", "", dry_run=False, tell=silent)
        assert (done.damaged_count, done.dropped_count) == (1, 3)
        assert stored(store, "abcdxy") == "axy"
        assert desk.announced == [store], "an engine may have the pages still"
        assert (await desk.scrub.verify("", "", dry_run=False, tell=silent)).damaged_count == 0

    with_desk(tmp_path, work)


def test_one_session_can_be_verified_alone(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        put_chain(store, "abc")
        desk.damage(store, put(store, "x"))
        done = await desk.scrub.verify("", key("c").hex(), dry_run=False, tell=silent)
        assert (done.page_count, done.damaged_count) == (3, 0)
        with pytest.raises(RequestError):
            await desk.scrub.verify("ab", key("c").hex(), dry_run=False, tell=silent)

    with_desk(tmp_path, work)


def test_a_page_that_leaves_or_is_cleared_while_it_is_read_is_let_go_of(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        for page in range(150):
            put(store, page)
        steps = 0

        def disturb(_: Progress) -> None:
            nonlocal steps
            steps += 1
            if steps == 1:
                while store.catalog.evict_oldest() is not None:
                    pass
                put_chain(store, "new")

        done = await desk.scrub.verify("", "", dry_run=False, tell=disturb)
        assert (done.damaged_count, store.catalog.counters().held) == (0, 0)
        assert stored(store, "new") == "new"

    with_desk(tmp_path, work, size_bytes=1 << 17)


def test_an_engine_of_another_identity_does_not_wait_for_an_operator(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        for page in range(150):
            put(store, page)
        opened: list[asyncio.Task[object]] = []

        def come(_: Progress) -> None:
            if not opened:
                opened.append(asyncio.ensure_future(desk.stores.acquire(OTHER, store.page)))

        with pytest.raises(UnavailableError, match="another identity"):
            await desk.scrub.verify("", "", dry_run=False, tell=come)
        other = await opened[0]
        assert desk.inventory.opened() == [other]

    with_desk(tmp_path, work, size_bytes=1 << 17)


def test_a_dry_restore_counts_what_the_engine_has_no_room_for(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        store = await desk.open()
        put_chain(store, "abcde")
        plan = await desk.scrub.restore_plan(store, 3, lambda engine, other: engine.mismatches(other), silent)
        assert (plan.page_count, plan.token_count, plan.size_bytes, plan.rejected) == (3, 12, 480, {"no-room": 2})
        with pytest.raises(NotFoundError):
            desk.inventory.only("feed", "restore")

    with_desk(tmp_path, work)


def test_a_real_restore_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(NotNowError) as caught:
        refuse_restore()
    assert "--dry-run" in caught.value.hint


def test_long_work_goes_on_under_a_slow_follower_and_ends_with_a_gone_one() -> None:
    async def main() -> None:
        long_work, ended = LongWork(), []

        async def work(tell: Tell) -> str:
            tell(Progress(1, 2, 3))
            await asyncio.sleep(0)
            return "done"

        steps = [step async for step in long_work.follow("try", work)]
        assert steps[-1] == "done"

        async def endless(tell: Tell) -> str:
            try:
                while True:
                    tell(Progress(1, 2, 3))
                    await asyncio.sleep(0.01)
            finally:
                ended.append("cleaned up")

        follower = long_work.follow("try", endless)
        assert await anext(follower) == Progress(1, 2, 3)
        others = [long_work.follow("try", endless) for _ in range(MAX_AT_ONCE - 1)]
        for other in others:
            await anext(other)
        with pytest.raises(BusyError):
            await anext(long_work.follow("try", endless))
        for one in (follower, *others):
            await one.aclose()
        assert ended == ["cleaned up"] * MAX_AT_ONCE
        assert [step async for step in long_work.follow("try", work)][-1] == "done"

    asyncio.run(asyncio.wait_for(main(), 30))
