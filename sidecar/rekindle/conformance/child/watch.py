"""The watch: sees every call that the shim makes of the client library, and checks pages' bytes around it.

Runs in the child, on whatever thread the shim calls. The rule that it holds the plugin to:

    between a page's commit and the next raise of its fence, the page's bytes never change

There is no race in how that is seen. The call is made by the engine's own thread, which does nothing else meanwhile; at
a raise the bytes are read before the epoch moves; and at the end of a step they are read between two looks at the
epoch, as a copier does. What is seen is told at once, line by line, so that a SIGKILL takes none of it back.
"""

from __future__ import annotations

import functools
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.client import guard as guards
from rekindle_plugins.client import leader as leaders
from rekindle_plugins.client import link as links
from rekindle_plugins.client import rank as ranks
from rekindle_plugins.contract import fence as fences
from rekindle_plugins.contract import journal as journals
from rekindle_plugins.contract import plugin as plugins

from rekindle.conformance.child.memory import Memory
from rekindle.conformance.child.orders import Orders, Turns

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Held:
    """A page as it was when it was committed or adopted."""

    epoch: int
    group: int
    key: str
    digest: str


class Watch:
    """Made once in a child, before the driver is imported. `tell` sends one event to the kit."""

    def __init__(self, orders: Orders, tell: Tell) -> None:
        self._tell = tell
        self._turns = Turns(orders)
        self._lock = threading.RLock()
        self._memories: list[Memory] = []
        self._fence: fences.Fence | None = None
        self._held: dict[int, Held] = {}
        self._watch_life()
        self._watch_pages()
        if orders.journal_records is not None:
            self._shrink_journal(orders.journal_records)
        if orders.host_version is not None:
            plugins.PluginInfo.check.__defaults__ = (orders.host_version,)

    def check(self, when: str) -> None:
        """Pages whose epoch is what it was must hold what they held."""
        with self._lock:
            for page_id in list(self._held):
                self._compare(page_id, when)

    # -- the life of shims and links ---------------------------------------------------------------------------

    def _watch_life(self) -> None:
        watch = self

        @_instead_of(plugins.Stages, "enter")
        def enter(original: Any, stages: plugins.Stages, stage: plugins.Stage) -> None:
            original(stages, stage)
            watch._tell({"event": "stage", "owner": id(stages), "stage": stage.value})
            watch._turns.after(stage.value)

        @_instead_of(links.Link, "start")
        def start_link(original: Any, link: links.Link) -> None:
            watch._tell({"event": "link", "name": link.name})
            original(link)

        @_instead_of(ranks.Rank, "start")
        def start_rank(original: Any, rank: ranks.Rank) -> None:
            watch._take_memory(rank)
            original(rank)

        @_instead_of(leaders.Leader, "start")
        def start_leader(original: Any, leader: leaders.Leader) -> None:
            config = leader.config
            watch._fence = leader.fence
            told = {"page_count": config.page_count, "group_tokens": list(config.group_tokens)}
            told |= {"plugin": config.plugin.to_json(), "identity": dict(config.identity.fields)}
            watch._tell({"event": "leader", "world_size": config.world_size, **told})
            original(leader)

        @_instead_of(guards.Guard, "trip")
        def trip(original: Any, guard: guards.Guard, where: str) -> None:
            watch._tell({"event": "tripped", "where": where, "error": traceback.format_exc(limit=-6)})
            original(guard, where)

        @_instead_of(guards.Guard, "turn_off")
        def turn_off(original: Any, guard: guards.Guard, why: str) -> None:
            watch._tell({"event": "off", "why": why})
            original(guard, why)

    def _take_memory(self, rank: ranks.Rank) -> None:
        problem = ""
        try:
            self._memories.append(Memory(rank.region, rank._fds))
        except (OSError, ValueError) as error:
            problem = f"its buffers cannot be mapped: {error}"
        sizes = [os.fstat(fd).st_size for fd in rank._fds]
        self._tell({"event": "region", "region": rank.region.to_json(), "file_bytes": sizes, "problem": problem})

    # -- pages -------------------------------------------------------------------------------------------------

    def _watch_pages(self) -> None:
        watch = self

        @_instead_of(leaders.Leader, "commit")
        def commit(original: Any, leader: Any, *args: Any, **kwargs: Any) -> bool:
            watch._turns.before("commit")
            with watch._lock:
                is_new = bool(original(leader, *args, **kwargs))
                if is_new:
                    watch._remember("commit", leader, *_page(*args, **kwargs))
            if is_new:
                watch._turns.after("commit")
            return is_new

        @_instead_of(leaders.Leader, "adopt")
        def adopt(original: Any, leader: Any, page_id: int, *args: Any, **kwargs: Any) -> None:
            watch._turns.before("adopt")
            with watch._lock:
                original(leader, page_id, *args, **kwargs)
                watch._remember("adopt", leader, *_page(page_id, leader.epoch(page_id), *args, **kwargs))
            watch._turns.after("adopt")

        @_instead_of(fences.Fence, "raise_pages")
        def raise_fence(original: Any, fence: fences.Fence, page_ids: Iterable[int]) -> None:
            ids = list(page_ids)
            with watch._lock:
                if fence is watch._fence:
                    watch._let_go(ids)
                original(fence, ids)

        @_instead_of(leaders.Leader, "reset")
        def reset(original: Any, leader: Any, *args: Any, **kwargs: Any) -> None:
            original(leader, *args, **kwargs)
            watch._tell({"event": "reset", "identity": dict(leader._identity.fields)})

        for name in ("raise_pages", "end_step", "fill"):
            self._count_calls(name)

    def _count_calls(self, name: str) -> None:
        watch = self

        @_instead_of(leaders.Leader, name)
        def counted(original: Any, leader: Any, *args: Any, **kwargs: Any) -> Any:
            watch._turns.before(name)
            found = original(leader, *args, **kwargs)
            if name != "end_step":
                watch._tell({"event": name})
            watch._turns.after(name)
            return found

    def _remember(
        self, event: str, leader: Any, page_id: int, epoch: int, group: int, key: bytes, parent: bytes, tokens: Any
    ) -> None:
        digest = self._digest(page_id, group)
        self._held[page_id] = Held(epoch, group, key.hex(), digest)
        told = {"event": event, "page": page_id, "group": group, "key": key.hex(), "parent": parent.hex()}
        blank = [index for memory in self._memories for index in memory.blank_segments(page_id, group)]
        self._tell({**told, "epoch": epoch, "tokens": list(tokens), "digest": digest, "blank": blank})

    def _let_go(self, page_ids: Sequence[int]) -> None:
        for page_id in page_ids:
            self._compare(page_id, "before its fence was raised")
            self._held.pop(page_id, None)

    def _compare(self, page_id: int, when: str) -> None:
        held, fence = self._held.get(page_id), self._fence
        if held is None or fence is None:
            return
        is_same = fence.epoch(page_id) == held.epoch and self._digest(page_id, held.group) == held.digest
        if not is_same:
            if fence.epoch(page_id) == held.epoch:
                self._tell({"event": "changed", "page": page_id, "epoch": held.epoch, "key": held.key, "when": when})
            del self._held[page_id]

    def _digest(self, page_id: int, group: int) -> str:
        return "".join(memory.digest(page_id, group) for memory in self._memories)

    def _shrink_journal(self, records: int) -> None:
        @_instead_of(journals.JournalWriter, "__init__")
        def make(original: Any, journal: Any, page_tokens: int, *_: Any, **__: Any) -> None:
            original(journal, page_tokens, records)


def _page(
    page_id: int,
    epoch: int,
    group: int,
    key: bytes,
    parent: bytes,
    tokens: Sequence[int],
    flags: int = 0,
    request_id: str = "",
) -> tuple[int, int, int, bytes, bytes, Sequence[int]]:
    """The arguments of `Leader.commit`, by position: what a record is made of, without its flags."""
    return page_id, epoch, group, key, parent, tokens


def _instead_of(owner: type, name: str) -> Callable[[Callable[..., Any]], None]:
    """Puts a function in a method's place; it gets the method first, and the object second."""
    original = getattr(owner, name)

    def decorate(replacement: Callable[..., Any]) -> None:
        @functools.wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return replacement(original, self, *args, **kwargs)

        setattr(owner, name, method)

    return decorate
