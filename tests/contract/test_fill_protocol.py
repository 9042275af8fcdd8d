"""Abandoning fills, in every order of the shim's, the keeper's and the copiers' steps.

`Fills.abandon` is the real one, cut between its steps: at each of them the others may do any number of steps.

    scheduling thread   begin a fill, send it; take the results, and give the pages back to the engine
    link's thread       abandon: raise the epochs → take what has arrived → ask the copiers to go → wait for their end
    keeper              reads a fill whenever it likes, passes it on whenever it likes, replaces a copier that went
    copier              look at the fence → write, word by word → answer

No copier ever writes into a page after the shim gave it back. Each rule is also taken away, and then one does.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from exploring import Choices, Interleaving, RandomChoices, Seen, Steps, explore
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle_plugins.client import fills as fills_module
from rekindle_plugins.client.fills import FillPage, FillResult, Fills

PAGES = 2


class WrittenAfterGivenBackError(AssertionError):
    """A copier wrote into a page that the engine uses again."""


@dataclass(frozen=True)
class Rules:
    raises_epochs: bool = True
    takes_what_arrived_after_raising: bool = True
    waits_for_the_end: bool = True
    announces_before_loads: bool = True
    ends_only_its_own: bool = True
    second_fill: bool = False
    """The scheduling thread begins another fill while the first is being abandoned."""
    spare_copiers: int = 1
    words: int = 2


@dataclass
class CopierState:
    """A copier process, and both ends of its lifeline."""

    number: int
    rows: deque[tuple[int, FillPage]] = field(default_factory=deque)
    alive: bool = True
    asked_to_go: bool = False

    # The shim's end: what `Fills` calls of a socket.
    def send(self, data: bytes, flags: int) -> int:
        self.asked_to_go = True
        return len(data)

    def close(self) -> None:
        return


class PageFence:
    """A fence whose owner may be kept from raising it."""

    def __init__(self, world: World) -> None:
        self.epochs = [0] * PAGES
        self._world = world

    def epoch(self, page_id: int) -> int:
        return self.epochs[page_id]

    def raise_pages(self, page_ids: Sequence[int]) -> None:
        self._world.pause("raise")
        if self._world.rules.raises_epochs:
            for page_id in page_ids:
                self.epochs[page_id] += 1
        self._world.pause("raised")


class World:
    def __init__(self, rules: Rules, choices: Choices) -> None:
        self.rules = rules
        self.fence = PageFence(self)
        self.fills = Fills(self.fence, 5.0)  # type: ignore[arg-type]
        self.copiers: list[CopierState] = []
        self.to_keeper: deque[tuple[int, list[FillPage]]] = deque()
        self.to_shim: deque[tuple[str, Hashable]] = deque()
        self.given_back: set[int] = set()
        self.finished: list[int] = []
        self.writes = 0
        self.interleaving = Interleaving(choices, self.state)

    def state(self) -> Hashable:
        copiers = tuple((c.alive, c.asked_to_go, tuple(c.rows)) for c in self.copiers)
        waiting = tuple((f.fill_id, tuple(f.waiting)) for f in self.fills._fills.values())
        shim = (frozenset(self.given_back), tuple(self.fills._lifelines), waiting, tuple(self.fills._results))
        messages = (tuple((number, tuple(pages)) for number, pages in self.to_keeper), tuple(self.to_shim))
        return tuple(self.fence.epochs), copiers, shim, messages

    def pause(self, where: str) -> None:
        """The link's thread stands here: anything may happen elsewhere."""
        self.interleaving.run_some(where)

    # -- the shim ----------------------------------------------------------------------------------------------

    def begin(self, page_id: int) -> None:
        page = FillPage(page_id, self.fence.epochs[page_id], 0, bytes(32))
        fill = self.fills.begin([page])
        self.to_keeper.append((fill.fill_id, [page]))

    def take_results(self) -> None:
        for result in self.fills.poll():
            self.finished.append(result.fill_id)
            self.given_back.update(page.page_id for page in _pages(result))

    def receive_pending(self) -> None:
        self.pause("receive")
        while self.to_shim:
            kind, value = self.to_shim.popleft()
            if kind == "copier":
                assert isinstance(value, int)
                self.fills._lifelines[value] = self.copiers[value]  # type: ignore[assignment]
            else:
                assert isinstance(value, tuple)
                self.fills.settle(value[0], [(value[1], value[2])])
        self.pause("received")

    # -- the copiers -------------------------------------------------------------------------------------------

    def spawn_copier(self) -> CopierState:
        copier = CopierState(len(self.copiers))
        self.copiers.append(copier)
        self.interleaving.add(copier_steps(self, copier))
        return copier

    def write(self, page: FillPage) -> None:
        if page.page_id in self.given_back:
            raise WrittenAfterGivenBackError(f"page {page.page_id}")
        self.writes += 1


def _pages(result: FillResult) -> Iterator[FillPage]:
    yield from result.ok
    yield from (page for page, _ in result.failed)


def copier_steps(world: World, copier: CopierState) -> Steps:
    while not copier.asked_to_go:
        if not copier.rows:
            yield copier.number, "idle"
            continue
        fill_id, page = copier.rows[0]
        is_current = world.fence.epochs[page.page_id] == page.epoch
        yield copier.number, page, is_current
        for word in range(world.rules.words if is_current else 0):
            world.write(page)
            yield copier.number, page, word
        copier.rows.popleft()
        world.to_shim.append(("filled", (fill_id, page.page_id, "" if is_current else "fence-moved")))
        yield copier.number, "answered"
    copier.alive = False


def keeper_steps(world: World) -> Steps:
    """One lane: it has a copier, announces it, and passes rows on to it."""
    spares = world.rules.spare_copiers
    copier = world.spawn_copier()
    if world.rules.announces_before_loads:
        world.to_shim.append(("copier", copier.number))
    queued: deque[tuple[int, FillPage]] = deque()
    yield "spawned", 0
    while True:
        if not copier.alive and spares:
            spares -= 1
            for fill_id, page in copier.rows:
                world.to_shim.append(("filled", (fill_id, page.page_id, "copier-lost")))
            copier = world.spawn_copier()
            if world.rules.announces_before_loads:
                world.to_shim.append(("copier", copier.number))
            yield "spawned", copier.number, tuple(queued)
        if world.to_keeper:
            fill_id, pages = world.to_keeper.popleft()
            queued.extend((fill_id, page) for page in pages)
            yield "read", copier.number, tuple(queued)
        if queued and copier.alive:
            copier.rows.extend(queued)
            queued.clear()
            yield "passed on", copier.number
            if not world.rules.announces_before_loads:
                world.to_shim.append(("copier", copier.number))
        yield "idle", copier.number, spares, tuple(queued)


def scheduling_steps(world: World) -> Steps:
    """What the engine's own thread does while the link's thread abandons."""
    if world.rules.second_fill:
        world.begin(1)
        yield "began another"
    while True:
        world.take_results()
        yield "took", tuple(world.finished)


@contextmanager
def lifelines_of(world: World) -> Iterator[None]:
    """`Fills` waits on descriptors; here they are numbers, and waiting is letting the others go on."""

    def poll_until(fds: Sequence[int], _: float) -> list[int]:
        world.pause("wait")
        if not world.rules.waits_for_the_end:
            world.fills._lifelines.clear()
            return []
        return [fd for fd in fds if not world.copiers[fd].alive]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fills_module, "poll_until", poll_until)
        patch.setattr(fills_module, "_is_over", lambda copier: not copier.alive)
        yield


def scenario(rules: Rules, choices: Choices) -> World:
    world = World(rules, choices)
    world.interleaving.add(keeper_steps(world))
    with lifelines_of(world):
        try:
            world.begin(0)
            world.pause("begun")
            if not rules.takes_what_arrived_after_raising:
                world.receive_pending()
                receive_in_abandon = lambda: None  # noqa: E731
            else:
                receive_in_abandon = world.receive_pending
            world.interleaving.add(scheduling_steps(world))
            world.fills.abandon(receive_in_abandon, {}, "timed-out")
            if not rules.ends_only_its_own:
                for fill in list(world.fills._fills.values()):
                    world.fills.settle(fill.fill_id, [(page_id, "timed-out") for page_id in list(fill.waiting)])
            world.take_results()
            assert 1 in world.finished, "an abandoned fill always ends"
            world.interleaving.run_all()
        except Seen:
            pass
    return world


def explore_all(rules: Rules) -> tuple[int, bool]:
    """(most words written, whether some order ended the fill)"""
    most, ended = 0, False

    def one(choices: Choices) -> None:
        nonlocal most, ended
        world = scenario(rules, choices)
        most, ended = max(most, world.writes), ended or 1 in world.finished

    explore(one)
    return most, ended


def test_no_order_of_steps_writes_into_a_page_that_was_given_back() -> None:
    assert explore_all(Rules()) == (Rules.words, True)


def test_a_fill_begun_while_another_is_abandoned_is_not_given_back_under_a_copier() -> None:
    explore_all(Rules(second_fill=True, words=1))


@pytest.mark.parametrize(
    "broken",
    [
        Rules(raises_epochs=False),
        Rules(waits_for_the_end=False),
        Rules(takes_what_arrived_after_raising=False),
        Rules(announces_before_loads=False),
        Rules(ends_only_its_own=False, second_fill=True, words=1),
    ],
    ids=[
        "epochs-not-raised",
        "lifelines-not-awaited",
        "received-before-raising",
        "loads-sent-before-the-lifeline",
        "a-later-fill-ended-too",
    ],
)
def test_the_exploration_finds_a_late_write_when_a_rule_is_taken_away(broken: Rules) -> None:
    with pytest.raises(WrittenAfterGivenBackError):
        explore_all(broken)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32), spare_copiers=st.integers(0, 4))
def test_random_orders_with_many_copiers_write_into_no_page_that_was_given_back(seed: int, spare_copiers: int) -> None:
    print(f"seed {seed}")
    scenario(Rules(spare_copiers=spare_copiers), RandomChoices(random.Random(seed), limit=500))
