"""A process that is killed between any two steps leaves an arena that opens and holds what was published."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from driving.store_samples import DIGEST, IDENTITY, PAGE, claim, key, store, store_chain, sums
from rekindle.store import ROOT_PARENT, Catalog, Slot, Store
from rekindle.store.check import find_violations

STORE_BYTES = 40_000
Say = Callable[[str], None]


def live(directory: Path, step: Callable[[str], None], say: Say) -> None:
    """A life with every kind of change. ``say("+a")``: a is stored for sure; ``"?a"``: maybe; ``"-a"``: gone."""
    with Store(directory, STORE_BYTES, step=step) as home:
        catalog = home.open(DIGEST, IDENTITY, PAGE).catalog
        for name, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", "a"), ("p", None), ("q", None)):
            say(f"?{name}")
            store(catalog, name, parent)
            say(f"+{name}")
        catalog.discard(claim(catalog, "x", "d"))
        pin_and_evict(catalog, say)
        say("?b ?c")
        catalog.drop(slot_of(catalog, "b"))
        say("-b -c")
        say("?a ?d ?p ?q ?e")
        catalog.clear()
        say("-a -d -p -q -e")
        store_chain(catalog, "r", "s")
        say("+r +s")
    with Store(directory, STORE_BYTES, step=step) as home:
        home.open(DIGEST, IDENTITY, PAGE)


def slot_of(catalog: Catalog, name: str) -> Slot:
    slot = catalog.lookup(key(name))
    assert slot is not None
    return slot


def pin_and_evict(catalog: Catalog, say: Say) -> None:
    catalog.pin(slot_of(catalog, "p"))
    while catalog.counters().free:
        claim(catalog, f"filler {catalog.counters().free}")
    for name in "ad":
        catalog.touch(slot_of(catalog, name))
    say("?c ?e")  # the least recently used leaf
    outcome = catalog.claim(key("e"), ROOT_PARENT, 0, 0, [1, 2])
    assert outcome.slot is not None
    catalog.publish(outcome.slot, sums("e"))
    say("-c +e")


def read_certainties(said: str) -> dict[str, str]:
    return {word[1:]: word[0] for word in said.split()}


def run_until_killed(directory: Path, fatal: int) -> str | None:
    """Live in a child that kills itself at its ``fatal``-th step; None if it came through."""
    notes = os.open(directory / "said", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    child = os.fork()
    if child == 0:
        steps = iter(range(fatal))

        def step(_name: str) -> None:
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            live(directory / "store", step, lambda words: void(os.write(notes, f"{words} ".encode())))
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    said = os.pread(notes, 1 << 16, 0).decode()
    os.close(notes)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        return None
    assert os.WTERMSIG(status) == signal.SIGKILL
    return said


def void(_: object) -> None:
    """Drop a value."""


def check_after_kill(directory: Path, said: str, fatal: int) -> None:
    with Store(directory / "store", STORE_BYTES) as home:
        _, catalog, report = home.open(DIGEST, IDENTITY, PAGE)
        assert report.set_aside is None
        assert find_violations(catalog) == []
        for name, certainty in read_certainties(said).items():
            slot = catalog.lookup(key(name))
            assert certainty == "?" or (slot is not None) == (certainty == "+"), (fatal, name, certainty)
            if slot is not None:
                assert list(catalog.entry(slot).checksums) == sums(name)
                assert catalog.entry(slot).pinned <= (name == "p")
        assert list((directory / "store").glob("*.new")) == []
        store_chain(catalog, "after", "wards")


def test_a_kill_between_any_two_steps_leaves_a_valid_arena(tmp_path: Path) -> None:
    fatal = 0
    while True:
        directory = tmp_path / str(fatal)
        directory.mkdir()
        said = run_until_killed(directory, fatal)
        if said is None:
            break
        check_after_kill(directory, said, fatal)
        fatal += 1
    assert fatal > 100
