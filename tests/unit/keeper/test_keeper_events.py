"""Events are the log lines, and a slow watcher costs nobody but itself."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from rekindle.keeper import events as events_module
from rekindle.keeper.events import KEPT, MAX_WAITING, MAX_WATCHERS, EventLog
from rekindle.keeper.refusals import BusyError, RequestError
from rekindle.log_lines import write_from

LOG = logging.getLogger("rekindle.test")


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("rekindle", "rekindle_plugins")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def with_events(work: Callable[[EventLog], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        write_from("error")  # what is written does not matter
        log = EventLog()
        log.start()
        try:
            await work(log)
        finally:
            log.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_line_becomes_an_event_with_its_fields() -> None:
    async def work(log: EventLog) -> None:
        with log.watch(0) as watcher:
            LOG.info("event=mode from=%s to=%s", "serving", "paused")
            LOG.warning("engine attached", extra={"backend": "vllm", "ranks": 2})
            LOG.debug("not an event")
            first, _ = await watcher.next()
            second, lost = await watcher.next()
        assert (first.name, first.level, first.fields) == ("mode", "info", {"from": "serving", "to": "paused"})
        assert (second.name, second.fields, lost) == ("engine attached", {"backend": "vllm", "ranks": "2"}, 0)
        assert (first.number, second.number) == (1, 2)

    with_events(work)


def test_a_slow_watcher_loses_the_oldest_and_is_told_how_many() -> None:
    async def work(log: EventLog) -> None:
        with log.watch(0) as slow, log.watch(0) as quick:
            for number in range(MAX_WAITING + 7):
                LOG.info("event=step number=%d", number)
                assert (await quick.next())[1] == 0
            event, lost = await slow.next()
            assert (event.fields["number"], lost) == ("7", 7)
            assert (await slow.next())[1] == 0

    with_events(work)


def test_lines_may_come_from_any_thread_and_long_values_are_cut() -> None:
    async def work(log: EventLog) -> None:
        with log.watch(0) as watcher:
            thread = threading.Thread(target=LOG.info, args=("event=far text=%s", "x" * 10_000))
            thread.start()
            event, _ = await watcher.next()
            thread.join()
        assert len(event.fields["text"]) == events_module.MAX_VALUE_CHARS

    with_events(work)


@pytest.mark.parametrize(("happened", "asked", "given"), [(3, 2, 2), (3, 10, 3), (3, 0, 0), (KEPT + 9, KEPT, KEPT)])
def test_what_happened_before_can_be_asked_for(happened: int, asked: int, given: int) -> None:
    async def work(log: EventLog) -> None:
        with log.watch(0) as watcher:
            for number in range(happened):
                LOG.info("event=step number=%d", number)
                await watcher.next()
        with log.watch(asked) as late:
            seen = []
            while not late.is_empty:
                seen.append((await late.next())[0].number)
        assert seen == list(range(happened - given + 1, happened + 1))

    with_events(work)


def test_limits_hold() -> None:
    async def work(log: EventLog) -> None:
        with pytest.raises(RequestError), log.watch(KEPT + 1):
            pass
        watches = [log.watch(0) for _ in range(MAX_WATCHERS)]
        for watch in watches:
            watch.__enter__()
        with pytest.raises(BusyError), log.watch(0):
            pass
        watches[0].__exit__(None, None, None)
        with log.watch(0):
            pass

    with_events(work)
