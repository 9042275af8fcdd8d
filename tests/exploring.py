"""Exploring what concurrent steps can do to each other: every order of them, or random ones.

A scenario is a function that takes `Choices` and asks it, wherever two things could happen next, which does. `explore`
runs it again and again until every answer to every question has been tried. A scenario that gives its whole state with
the question is cut short where that state has been seen before, since what follows from it has been explored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Hashable, Sequence

Steps = Generator[Hashable, None, None]
"""Yields after every step. What it yields is its local state: with it and the world, the steps to come are known."""


class Seen(Exception):
    """This state has been explored."""


def no_state() -> Hashable:
    """For scenarios that do not tell their state: every order of their steps is run to its end."""
    return None


class Choices:
    """The answers of one run: a given prefix, then always the first."""

    def __init__(self, prefix: Sequence[int], seen: set[Hashable]) -> None:
        self.taken: list[tuple[int, int]] = []
        self._prefix = prefix
        self._seen = seen

    def choose(self, count: int, state: Callable[[], Hashable] = no_state) -> int:
        """Which of `count` things happens next. `state` is asked for only where it matters. Raises Seen."""
        position = len(self.taken)
        if position < len(self._prefix):
            answer = self._prefix[position]
        else:
            if state is not no_state:
                now = state()
                if now in self._seen:
                    raise Seen
                self._seen.add(now)
            answer = 0
        self.taken.append((answer, count))
        return answer


class RandomChoices(Choices):
    """Answers drawn from a seeded source, so that a run can be repeated."""

    def __init__(self, source: random.Random, limit: int = 10_000) -> None:
        super().__init__((), set())
        self._source = source
        self._left = limit

    def choose(self, count: int, state: Callable[[], Hashable] = no_state) -> int:
        self._left -= 1
        if not self._left:
            raise Seen
        return self._source.randrange(count)


def explore(scenario: Callable[[Choices], None]) -> int:
    """Runs `scenario` with all answers. Returns the number of runs; what it raises, but Seen, ends the exploration."""
    prefix: list[int] = []
    seen: set[Hashable] = set()
    runs = 0
    while True:
        choices = Choices(prefix, seen)
        runs += 1
        try:
            scenario(choices)
        except Seen:
            pass
        taken = choices.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return runs
        prefix = [answer for answer, _ in taken]
        prefix[-1] += 1


class Interleaving:
    """Runs several `Steps` against one world, one step at a time, as `choices` says."""

    def __init__(self, choices: Choices, world: Callable[[], Hashable], *actors: Steps) -> None:
        self._choices = choices
        self._world = world
        self._actors: list[tuple[Steps, Hashable]] = [(actor, None) for actor in actors]

    def add(self, actor: Steps) -> None:
        self._actors.append((actor, None))

    def run_some(self, where: Hashable = None) -> None:
        """Any number of steps, none included, of the actors. `where` is the caller's own local state."""
        while self._actors:
            answer = self._choices.choose(len(self._actors) + 1, lambda: self._state(where))
            if answer == len(self._actors):
                return
            self._step(answer)

    def run_all(self) -> None:
        """Until every actor has ended."""
        while self._actors:
            self._step(self._choices.choose(len(self._actors), lambda: self._state("all")))

    def _step(self, index: int) -> None:
        actor, _ = self._actors[index]
        try:
            self._actors[index] = (actor, next(actor))
        except StopIteration:
            # The others keep their places in the state: who is gone is told by what it left there.
            del self._actors[index]

    def _state(self, where: Hashable) -> Hashable:
        return (where, self._world(), tuple((id(actor.gi_code), local) for actor, local in self._actors))
