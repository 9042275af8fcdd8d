"""What a leader writes into its journal while it announces its live pages again."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest
from rekindle_plugins.client import Leader, LeaderConfig
from rekindle_plugins.client.leader import MAX_PARENTS_AT_ONCE
from rekindle_plugins.contract import Identity, JournalReader, PluginInfo
from rekindle_plugins.contract.identity import REQUIRED
from rekindle_plugins.contract.journal import ROOT

PAGES = 4096
SESSION = 8
"""Pages of a conversation."""


def key(session: int, index: int) -> bytes:
    return hashlib.sha256(f"{session} {index}".encode()).digest() if index >= 0 else ROOT


class Scene:
    """A leader whose threads the test stands for, and the keeper's end of its journal."""

    def __init__(self, tmp_path: Path) -> None:
        config = LeaderConfig(
            str(tmp_path / "attach.sock"),
            "engine-1",
            PluginInfo("test", "1", "no engine"),
            "1",
            Identity.of(dict.fromkeys(REQUIRED, "x")),
            PAGES,
            (1,),
            1,
        )
        self.leader = Leader(config, logging.getLogger("test"))
        self.leader.link.linked.set()
        self.journal = JournalReader(os.dup(self.leader._journal.fd), PAGES, (1,))
        self._next = 0

    def commit(self, session: int, index: int, parent: bytes | None = None) -> int:
        page_id, self._next = self._next, self._next + 1
        above = key(session, index - 1) if parent is None else parent
        assert self.leader.commit(page_id, self.leader.epoch(page_id), 0, key(session, index), above, (1,))
        return page_id

    def told(self) -> list[int]:
        """Page ids of the records since the last look."""
        return [record.page_id for record in self.journal.drain(PAGES).records]

    def announced_in_the_end(self) -> list[int]:
        while self.leader._to_announce:
            self.leader._announce_some()
        return self.told()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_page_committed_while_all_are_announced_goes_ahead_of_them_behind_its_parents(scene: Scene) -> None:
    pages = [[scene.commit(session, index) for index in range(SESSION)] for session in range(100)]
    scene.told()
    scene.leader._announce_all()
    new = scene.commit(70, SESSION)
    assert scene.told() == [*pages[70], new]
    next_one = scene.commit(70, SESSION + 1)
    assert scene.told() == [next_one], "its parents are in the journal already"
    assert set(scene.announced_in_the_end()) >= {page for session in pages for page in session} - {*pages[70]}


def test_more_parents_than_a_step_should_write_are_announced_before_all_others(scene: Scene) -> None:
    others = [scene.commit(0, index) for index in range(200)]
    long = [scene.commit(1, index) for index in range(MAX_PARENTS_AT_ONCE + 1)]
    scene.told()
    scene.leader._announce_all()
    new = scene.commit(1, len(long))
    assert scene.told() == []
    assert scene.announced_in_the_end()[: len(long) + 1] == [*long, new]
    assert others[0] in scene.leader._live


def test_a_parent_that_was_handed_out_again_is_not_announced_for_its_child(scene: Scene) -> None:
    first, second = scene.commit(0, 0), scene.commit(0, 1)
    scene.told()
    scene.leader._announce_all()
    scene.leader.raise_pages([first])
    assert scene.told() == []
    third = scene.commit(0, 2)
    assert scene.told() == [second, third]


def test_pages_that_name_each_other_as_parents_end_nowhere_but_in_the_journal(scene: Scene) -> None:
    scene.commit(0, 0, parent=key(0, 1))
    scene.commit(0, 1)
    scene.leader._announce_all()
    scene.told()
    new = scene.commit(0, 2)
    assert scene.told()[-1] == new
