"""The journal and the fence together, in every order of the engine's, the keeper's and the copier's steps.

    engine    raise the fence → write the page, word by word → commit to the journal        (real Fence, JournalWriter)
    keeper    drain → claim                                                                 (real JournalReader)
    copier    read the epoch → copy, word by word → checksum → read the epoch again

A page that the copier accepts has exactly the bytes of the committed key. Each rule of the protocol is also taken away,
and the exploration must then find a torn page: so it can.
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import dataclass

import pytest
from exploring import Choices, Interleaving, RandomChoices, Seen, Steps, explore
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle_plugins.contract import Fence, JournalReader, JournalWriter, Record
from rekindle_plugins.contract.journal import ROOT, pack_payload

Word = tuple[int, int]
"""(page, generation): what a word of a page holds."""


class TornPageError(AssertionError):
    """The copier accepted bytes that are not those of the committed key."""


@dataclass(frozen=True)
class Rules:
    pages: int = 2
    words: int = 2
    generations: int = 2
    raises_first: bool = True
    checks_after: bool = True
    commits_last: bool = True


def key_of(page_id: int, generation: int) -> bytes:
    return bytes([page_id + 1, generation]) + bytes(30)


class World:
    """Shared memory, and what the copier has accepted. Closed after use, since every run makes one."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.fence = Fence.create(rules.pages)
        self.writer = JournalWriter(1, capacity=16)
        self.reader = JournalReader(self.writer.fd, rules.pages, (1,))
        self.pages: list[list[Word]] = [[(page, 0)] * rules.words for page in range(rules.pages)]
        self.claims: list[Record] = []
        self.accepted = 0

    def state(self) -> Hashable:
        epochs = tuple(self.fence.epoch(page) for page in range(self.rules.pages))
        return epochs, tuple(map(tuple, self.pages)), self.reader.pending, len(self.claims), self.accepted

    def close(self) -> None:
        self.reader.close()
        self.writer.close()
        self.fence.close()

    def take(self, record: Record, copy: list[Word]) -> None:
        page_id, generation = record.key[0] - 1, record.key[1]
        if copy != [(page_id, generation)] * self.rules.words:
            raise TornPageError(f"page {page_id} of generation {generation} was accepted with {copy}")
        self.accepted += 1


def engine(world: World) -> Steps:
    rules = world.rules
    for generation in range(1, rules.generations + 1):
        for page_id in range(rules.pages):
            if rules.raises_first:
                world.fence.raise_pages([page_id])
                yield generation, page_id, "raised"
            if not rules.commits_last:
                _commit(world, page_id, generation)
                yield generation, page_id, "committed early"
            for word in range(rules.words):
                world.pages[page_id][word] = (page_id, generation)
                yield generation, page_id, word
            if not rules.raises_first:
                world.fence.raise_pages([page_id])
                yield generation, page_id, "raised late"
            if rules.commits_last:
                _commit(world, page_id, generation)
                yield generation, page_id, "committed"


def _commit(world: World, page_id: int, generation: int) -> None:
    epoch = world.fence.epoch(page_id)
    world.writer.append(pack_payload(page_id, epoch, 0, 0, key_of(page_id, generation), ROOT, [generation]))


def keeper(world: World) -> Steps:
    while True:
        drained = world.reader.drain(1)
        assert not drained.errors
        assert not drained.lost
        world.claims.extend(drained.records)
        yield "drained"


def copier(world: World) -> Steps:
    while True:
        if not world.claims:
            yield "idle"
            continue
        record = world.claims.pop(0)
        is_current = world.fence.epoch(record.page_id) == record.epoch
        yield record.key, is_current
        if not is_current:
            continue
        copy: list[Word] = []
        for word in range(world.rules.words):
            copy.append(world.pages[record.page_id][word])
            yield record.key, tuple(copy)
        checksum = hash(tuple(copy))
        yield record.key, tuple(copy), checksum
        if not world.rules.checks_after or world.fence.epoch(record.page_id) == record.epoch:
            world.take(record, copy)


def scenario(rules: Rules, choices: Choices) -> int:
    world = World(rules)
    try:
        Interleaving(choices, world.state, engine(world), keeper(world), copier(world)).run_all()
    except Seen:
        pass
    finally:
        accepted = world.accepted
        world.close()
    return accepted


def explore_all(rules: Rules) -> int:
    most_accepted = 0

    def one(choices: Choices) -> None:
        nonlocal most_accepted
        most_accepted = max(most_accepted, scenario(rules, choices))

    explore(one)
    return most_accepted


@pytest.mark.parametrize(
    "rules",
    [Rules(pages=2, words=2, generations=2), Rules(pages=1, words=3, generations=3)],
    ids=["two-pages", "one-page-three-times"],
)
def test_no_order_of_overwrite_and_copy_yields_a_torn_page(rules: Rules) -> None:
    assert explore_all(rules) == rules.pages * rules.generations, "some order accepts every page that was committed"


@pytest.mark.parametrize(
    "broken",
    [
        Rules(pages=1, checks_after=False),
        Rules(pages=1, raises_first=False),
        Rules(pages=1, generations=1, commits_last=False),
    ],
    ids=["no-second-look-at-the-fence", "fence-raised-after-the-write", "committed-before-it-was-written"],
)
def test_the_exploration_finds_a_torn_page_when_a_rule_is_taken_away(broken: Rules) -> None:
    with pytest.raises(TornPageError):
        explore_all(broken)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1 << 32), pages=st.integers(1, 5), words=st.integers(1, 6), generations=st.integers(1, 5))
def test_random_orders_of_larger_engines_yield_no_torn_page(
    seed: int, pages: int, words: int, generations: int
) -> None:
    print(f"seed {seed}")
    rules = Rules(pages, words, generations)
    scenario(rules, RandomChoices(random.Random(seed), limit=400))
