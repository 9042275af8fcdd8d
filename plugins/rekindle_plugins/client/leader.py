"""The leader: the half of a shim that runs beside the engine's scheduler.

It owns the journal and the fence. The engine's scheduling thread calls `raise_pages` before a step is dispatched,
`commit` for pages whose KV is complete, and `end_step` once; none of them waits or takes more than microseconds. All
talk with the sidecar is on the link's thread.

    scheduling thread   begin_step, raise_pages → [step runs] → commit … → end_step → one eventfd write
    link's thread       attach, announce live pages, receive fills' results
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.client.fills import Fill, FillPage, FillResult, Fills
from rekindle_plugins.client.link import Link
from rekindle_plugins.client.requests import RequestNames
from rekindle_plugins.contract.errors import ProtocolError
from rekindle_plugins.contract.fence import Fence
from rekindle_plugins.contract.identity import Identity
from rekindle_plugins.contract.journal import JournalWriter, names_in, pack_payload
from rekindle_plugins.contract.plugin import PluginInfo
from rekindle_plugins.contract.presence import Presence
from rekindle_plugins.contract.wire import Message

__all__ = ["Fill", "FillPage", "FillResult", "Leader", "LeaderConfig", "PlannedPage"]

PAGES_PER_MESSAGE = 512
DESCRIPTORS = {"welcome": (1,), "copier": (1, 2)}
"""How many come with a message; with all others none."""
ANNOUNCE_BATCH = 128
ANNOUNCE_PAUSE_S = 0.005
MAX_PARENTS_AT_ONCE = 128
"""Parents that a commit writes into the journal with a page: some hundreds of microseconds of a step."""
REQUESTS_SINCE = 1
"""The contract's minor from which on a sidecar takes the message `requests`."""
MAX_PURGE = 64
"""Identities in one hello: the sidecar refuses more. They stay few: a sidecar that is away is told of one only."""


@dataclass(frozen=True)
class LeaderConfig:
    """What a leader tells of its engine. `group_tokens`: tokens of a full page, by KV-cache group."""

    attach_path: str
    instance: str
    plugin: PluginInfo
    engine_version: str
    identity: Identity
    page_count: int
    group_tokens: tuple[int, ...]
    world_size: int
    handshake_timeout_s: float = 2.0
    fill_timeout_s: float = 5.0
    journal_records: int = 8192
    serving: Mapping[str, Any] | None = None
    """For the plugin's dialect (`Dialect.told`): what no answer over HTTP tells of the server. JSON, up to 4 KiB."""


@dataclass(frozen=True)
class PlannedPage:
    """A page the sidecar could put back. Parents come before their children."""

    key: bytes
    parent: bytes
    group: int
    tokens: tuple[int, ...]


class Leader:
    """See the module's text. Create one per engine start; `start` begins attaching and returns at once."""

    def __init__(self, config: LeaderConfig, log: logging.Logger) -> None:
        self.config = config
        self.fence = Fence.create(config.page_count)
        self._journal = JournalWriter(max(config.group_tokens), config.journal_records)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._log = log
        self._lock = threading.Lock()
        """Guards the journal and the table of live pages."""
        self._live: dict[int, bytes] = {}
        self._places: dict[bytes, int] = {}
        """Where a live page is, by its group and key. Of two places, the one that was added last."""
        self._to_announce: list[int] = []
        self._unannounced: set[int] = set()
        """Those of `_to_announce` that are not in the journal again yet."""
        self._identity = config.identity
        self._generation = 0
        """Cache resets. Told with the identity, so that the sidecar knows which records belong to which identity."""
        self._told: list[Identity] = []
        """Identities under which a sidecar may still hold pages of ours. All but the current one are void."""
        self._unanswered = 0
        """Hellos and resets of this connection for which no welcome has come back."""
        self._presence: Presence | None = None
        self._is_silent = False
        """The sidecar let a load become late, and has said nothing since: it is not asked for another one."""
        self._welcome: Message | None = None
        self._plans: dict[int, tuple[list[PlannedPage], threading.Event]] = {}
        self._plan_id = 0
        self._names = RequestNames()
        self._committed = 0
        self._spent_ns = 0
        self._has_work = False
        """The keeper was woken for the work there is. It watches by itself until it has seen the end of it."""
        self.fills = Fills(self.fence, config.fill_timeout_s)
        self.link = Link(
            config.attach_path,
            "leader",
            self._hello,
            self._on_message,
            self._on_idle,
            self._on_down,
            log,
            config.handshake_timeout_s,
        )

    def start(self) -> None:
        self.link.start()

    # -- the engine's scheduling thread ------------------------------------------------------------------------

    @property
    def linked(self) -> bool:
        return self.link.linked.is_set()

    @property
    def stored_pages(self) -> int:
        """Pages the store held for this identity when we attached."""
        return int(self._welcome["stored_pages"]) if self._welcome is not None else 0

    @property
    def restore_budget_s(self) -> float:
        return float(self._welcome["restore_budget_s"]) if self._welcome is not None else 0.0

    def epoch(self, page_id: int) -> int:
        return self.fence.epoch(page_id)

    def raise_pages(self, page_ids: Iterable[int]) -> None:
        """Before the step that may overwrite these pages is dispatched."""
        live, places = self._live, self._places
        ids = list(page_ids)
        self.fence.raise_pages(ids)
        for page_id in ids:
            payload = live.pop(page_id, None)
            if payload is not None:
                name, _ = names_in(payload)
                if places.get(name) == page_id:
                    del places[name]

    def is_live(self, page_id: int) -> bool:
        """True while the page holds a committed or restored page and was not handed out again."""
        return page_id in self._live

    def commit(
        self,
        page_id: int,
        epoch: int,
        group: int,
        key: bytes,
        parent: bytes,
        tokens: Sequence[int],
        flags: int = 0,
        request_id: str = "",
    ) -> bool:
        """Announces a page whose KV is complete on every rank.

        `epoch` is the page's epoch from when it was allocated to what it holds now. `request_id`: the engine's name for
        who computed it, by which operators find the session. False when the page was handed out again since, or was
        announced already: then nothing happens.
        """
        if page_id in self._live or self.fence.epoch(page_id) != epoch:
            return False
        payload = pack_payload(page_id, epoch, group, flags, key, parent, tokens)
        with self._lock:
            self._remember(page_id, payload)
            if self.linked:
                self._append(page_id, payload)
        self._names.add(request_id, key)
        self._committed += 1
        return True

    def _remember(self, page_id: int, payload: bytes) -> None:
        self._live[page_id] = payload
        name, _ = names_in(payload)
        self._places[name] = page_id

    def _append(self, page_id: int, payload: bytes) -> None:
        """A new page goes into the journal at once, behind those of its parents that still wait to be announced again.

        Behind all live pages it would wait for seconds, and be lost with the engine. Where more parents wait than a
        step should write, they and the page become the next ones to be announced.
        """
        chain = self._unannounced_parents(payload)
        if len(chain) > MAX_PARENTS_AT_ONCE:
            self._to_announce = [*chain, page_id, *self._to_announce]
            self._unannounced.add(page_id)
            self.link.wake()
            return
        for parent in chain:
            self._journal.append(self._live[parent])
        self._journal.append(payload)
        self._unannounced.difference_update((*chain, page_id))

    def _unannounced_parents(self, payload: bytes) -> list[int]:
        """The first one first."""
        chain: list[int] = []
        while self._unannounced:
            _, parent = names_in(payload)
            place = self._places.get(parent)
            if place is None or place not in self._unannounced or len(chain) > len(self._live):
                break
            chain.append(place)
            payload = self._live[place]
        return chain[::-1]

    def adopt(self, page_id: int, group: int, key: bytes, parent: bytes, tokens: Sequence[int], flags: int = 0) -> None:
        """Remembers a page that was put back: it is live, and the store has it already."""
        self._remember(page_id, pack_payload(page_id, self.fence.epoch(page_id), group, flags, key, parent, tokens))

    def begin_step(self, outstanding: int) -> None:
        """Before a step is dispatched: one that hangs has been told of. `outstanding`: requests that run or wait."""
        self._journal.step_started(outstanding)
        self._work_began()

    def tell_outstanding(self, outstanding: int) -> None:
        """Between steps: requests came, or the engine found that it has nothing to do (0)."""
        self._journal.tell_outstanding(outstanding)
        if outstanding:
            self._work_began()
        else:
            self._has_work = False

    def _work_began(self) -> None:
        """Wakes the keeper once for each stretch of work: an idle keeper has no timer that would notice."""
        if not self._has_work:
            self._has_work = True
            self._ring()

    def end_step(self, outstanding: int, under_way: int = 0) -> None:
        """After the commits of a step: the one wake-up, if there is anything to see.

        `under_way`: steps that were begun and have not come to this point yet.
        """
        self._journal.step_finished(outstanding, under_way)
        self._has_work = bool(outstanding or under_way)
        if self._committed or self._spent_ns:
            self._journal.account(self._spent_ns, self._committed)
            self._spent_ns = 0
        if self._committed:
            self._committed = 0
            self._tell_requests()
            self._ring()

    def _tell_requests(self) -> None:
        """Once a request, with the step in which its first page was committed. What cannot be sent stays unsaid."""
        rows = self._names.take()
        if rows and self._welcome is not None and self._welcome.minor >= REQUESTS_SINCE:
            self.link.send("requests", requests=rows)

    def account(self, spent_ns: int) -> None:
        self._spent_ns += spent_ns

    def has(self, key: bytes, group: int = 0) -> bool:
        """Whether the store probably has this page. Never waits."""
        presence = self._presence
        return presence is not None and self.linked and not self._is_silent and presence.has(key, group)

    def fill(self, pages: Sequence[FillPage]) -> int:
        """Starts putting pages back; the result comes from `fills.poll` under the returned id, always.

        The caller has raised the pages' epochs before and reads the new ones into `FillPage.epoch`. It must not let the
        engine use or reuse the pages before the result is there.
        """
        fill = self.fills.begin(pages)
        for start in range(0, len(pages), PAGES_PER_MESSAGE):
            part = pages[start : start + PAGES_PER_MESSAGE]
            rows = [[page.page_id, page.epoch, page.group, page.key.hex()] for page in part]
            if not self.link.send("fill", fill_id=fill.fill_id, pages=rows):
                self.fills.settle(fill.fill_id, [(page.page_id, "sidecar-unreachable") for page in pages[start:]])
                break
        self.link.wake()
        return fill.fill_id

    def plan(self, max_pages: int, timeout_s: float) -> list[PlannedPage]:
        """What the sidecar would put back, best first, parents before children. Waits; only for start-up."""
        self._plan_id += 1
        pages: list[PlannedPage] = []
        done = threading.Event()
        self._plans[self._plan_id] = (pages, done)
        if not self.link.send("plan", plan_id=self._plan_id, max_pages=max_pages) or not done.wait(timeout_s):
            pages = []
        self._plans.pop(self._plan_id, None)
        return pages

    def reset(self, identity: Identity) -> None:
        """The engine's cache was reset or its weights changed: all pages are void, at once.

        `identity` is what pages committed from now on belong to.
        """
        with self._lock:
            self._generation = self._journal.raise_generation()
            self.fence.raise_pages(range(self.config.page_count))
            self._forget_all()
            self._identity = identity
            self._presence = None  # it tells of what is void; the answer to the reset brings another one
            self._unanswered += 1  # also where it cannot be sent: no welcome that is on its way answers it
            # A sidecar that dies before it has read this is told again: `_told` is emptied by its answer only.
            if self.link.send("reset", identity=dict(identity.fields), generation=self._generation):
                self._told.append(identity)
            else:
                self.link.reconnect()
        self._ring()

    def give_up(self) -> None:
        """The shim no longer follows its engine: nothing announced so far may be copied from now on."""
        with self._lock:
            self.fence.raise_pages(range(self.config.page_count))
            self._forget_all()
        self.link.stop()

    def _forget_all(self) -> None:
        self._live.clear()
        self._places.clear()
        self._to_announce = []
        self._unannounced = set()

    def report(self, restored: int, tokens: int, rejected: dict[str, int], seconds: float) -> None:
        """Tells the sidecar how the restore went, for its recovery report."""
        self.link.send("report", restored=restored, tokens=tokens, rejected=rejected, seconds=round(seconds, 6))

    def close(self) -> None:
        """Hangs up. The mappings stay as long as this object does: an engine that calls it once more is not harmed."""
        if self.link.close() and self._wake >= 0:
            fds, self._wake = (self._journal.fd, self.fence.fd, self._wake), -1
            Message("", {}, fds).close_fds()

    # -- the link's thread -------------------------------------------------------------------------------------

    def _ring(self) -> None:
        try:
            os.eventfd_write(self._wake, 1)
        except (BlockingIOError, OSError):
            return

    def _hello(self) -> tuple[dict[str, Any], Sequence[int]]:
        config = self.config
        with self._lock:
            identity, generation = self._identity, self._generation
            void = [told for told in self._told if told != identity][-MAX_PURGE:]
            self._told = [*void, identity]
            self._unanswered = 1
        fields = {
            "role": "leader",
            "instance": config.instance,
            "plugin": config.plugin.to_json(),
            "engine_version": config.engine_version,
            "world_size": config.world_size,
            "identity": dict(identity.fields),
            "generation": generation,
            "page_count": config.page_count,
            "group_tokens": list(config.group_tokens),
            "purge": [dict(told.fields) for told in void],
            "fills_in_flight": self.fills.outstanding,
            "serving": config.serving,
        }
        return fields, (self._journal.fd, self.fence.fd, self._wake)

    def _on_message(self, message: Message) -> None:
        self._is_silent = False
        if len(message.fds) not in DESCRIPTORS.get(message.type, (0,)):
            message.close_fds()
            raise ProtocolError("receive", f"{message.type} from the sidecar", f"it has {len(message.fds)} descriptors")
        if message.type == "welcome":
            presence = Presence(message.fds[0])
            self._welcome = message
            self._take_welcome(message, presence)
            self._announce_all()
        elif message.type == "copier":
            self.fills.add_lifeline(message.fds[0], self.link.watched, *message.fds[1:])
        elif message.type == "filled":
            self.fills.settle(message["fill_id"], _answers(message["pages"]))
        elif message.type == "pages":
            self._on_plan(message)
        elif message.type == "announce":
            self._announce_all()
        else:
            raise ProtocolError("receive", f"{message.type} from the sidecar", "it was not expected")

    def _take_welcome(self, message: Message, presence: Presence) -> None:
        timeout_s = message.fields.get("fill_timeout_s")
        if isinstance(timeout_s, (int, float)) and timeout_s > 0:
            self.fills.timeout_s = float(timeout_s)
        with self._lock:
            self._unanswered = max(0, self._unanswered - 1)
            if not self._unanswered:
                self._told = [self._identity]
                self._presence = presence
                return
        presence.close()  # of before a reset that this welcome does not answer

    def _on_plan(self, message: Message) -> None:
        pages, done = self._plans.get(message["plan_id"], ([], threading.Event()))
        for row in message["pages"]:
            try:
                key, parent, group, tokens = row
                raw = bytes.fromhex(tokens)
                page = PlannedPage(
                    bytes.fromhex(key), bytes.fromhex(parent), int(group), struct.unpack(f"<{len(raw) // 4}I", raw)
                )
            except (ValueError, TypeError, struct.error) as error:
                raise ProtocolError("receive", "pages from the sidecar", f"{row!r:.80} is no page") from error
            pages.append(page)
        if message["last"]:
            done.set()

    def _announce_all(self) -> None:
        with self._lock:
            self._to_announce = list(self._live)
            self._unannounced = set(self._to_announce)

    def _on_idle(self) -> float | None:
        overdue = self.fills.overdue()
        if overdue is not None and overdue <= 0:
            self._log.warning("rekindle: the sidecar does not finish a load; asking its copiers to go")
            self._is_silent = True
            self.fills.abandon(self.link.receive_pending, self.link.watched, "timed-out")
            overdue = None
        pause = self._announce_some()
        waits = [wait for wait in (overdue, pause) if wait is not None]
        return min(waits) if waits else None

    def _announce_some(self) -> float | None:
        """Announces a few live pages again, paced by the keeper, so that the ring never overflows by our doing."""
        if not self._to_announce:
            return None
        half = max(1, self._journal.capacity // 2)
        if self._journal.backlog < half:
            count = min(ANNOUNCE_BATCH, half)
            with self._lock:
                batch, self._to_announce = self._to_announce[:count], self._to_announce[count:]
                for payload in [self._live.get(page_id) for page_id in batch]:
                    if payload is not None:
                        self._journal.append(payload)
                self._unannounced.difference_update(batch)
            self._ring()
            time.sleep(0)
            return 0.0
        return ANNOUNCE_PAUSE_S

    def _on_down(self) -> None:
        for pages, done in list(self._plans.values()):
            pages.clear()
            done.set()
        self.fills.abandon(self.link.receive_pending, self.link.watched, "sidecar-lost")
        self.fills.close_lifelines(self.link.watched)
        self._presence = None


def _answers(rows: list[Any]) -> list[tuple[int, str]]:
    try:
        return [(int(page_id), str(reason)) for page_id, reason in rows]
    except (ValueError, TypeError) as error:
        raise ProtocolError("receive", "filled from the sidecar", "its pages are malformed") from error
