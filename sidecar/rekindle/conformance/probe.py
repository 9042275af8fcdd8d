"""The probe: a sidecar in little, whose every answer the kit decides. It speaks the attach protocol itself.

Runs in the kit's process on a thread of its own. It maps the region by the geometry that it was told, copies committed
pages as a copier does (epoch, bytes, epoch again) and puts them back. How it does that is its `Manner`, which a check
may change while an engine is attached: it can refuse, be slow, break its word about pages, or be of a newer minor.
"""

from __future__ import annotations

import contextlib
import enum
import os
import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rekindle_plugins.contract.errors import ProtocolError, RekindleError
from rekindle_plugins.contract.journal import ROOT
from rekindle_plugins.contract.wire import API_VERSION, Channel, Message

from rekindle.conformance.attached import Attached, Copy, PageKey, StoredPage
from rekindle.store.presence import PresenceFilter

PRESENCE_SLOTS = 4096
PLAN_ROWS = 64


class Copies(enum.Enum):
    """When a committed page is copied."""

    AT_ONCE = "at-once"
    IN_HALVES = "in-halves"
    """The first half at once, the second when the check asks for it: a copier that the engine overtakes."""


class Fills(enum.Enum):
    """What becomes of a page that the engine wants back."""

    GOOD = "good"
    DAMAGED = "damaged"
    """Something else is written there, and the answer is that its checksum was wrong."""
    HELD = "held"
    """Begun, and answered when the check asks for it."""


@dataclass
class Manner:
    """How the probe behaves."""

    api: tuple[int, int] = API_VERSION
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More fields in every message: what a newer minor may add."""
    refusal: RekindleError | None = None
    copies: Copies = Copies.AT_ONCE
    fills: Fills = Fills.GOOD
    restore_budget_s: float = 30.0
    fill_timeout_s: float = 60.0


class Probe:
    """Listens in `run_dir` from `start` to `stop`. What it has stored outlives both: it is the store of a check."""

    def __init__(self, run_dir: Path, manner: Manner | None = None) -> None:
        self.manner = manner or Manner()
        self.stored: dict[PageKey, StoredPage] = {}
        self.hellos: list[dict[str, Any]] = []
        """The fields of every hello, refused ones too."""
        self.hang_ups = 0
        self.problems: list[str] = []
        """What an engine sent that cannot be."""
        self.resets: list[dict[str, str]] = []
        """Identities told by resets, in order."""
        self._path = run_dir / "attach.sock"
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._attached: dict[str, Attached] = {}
        self._channels: dict[int, tuple[Channel, str]] = {}
        self._presence = PresenceFilter(PRESENCE_SLOTS)
        self._held: list[Callable[[], None]] = []
        self._scribbled: list[tuple[Attached, int, int]] = []
        self._copies: list[Copy] = []

    # -- the check's side --------------------------------------------------------------------------------------

    def start(self) -> Probe:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        listener.bind(str(self._path))
        listener.listen(16)
        listener.setblocking(False)
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="kit-probe", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Hangs up on everybody, at once. Safe to call again."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def attached(self) -> list[Attached]:
        """Engines that are welcomed, the last one last."""
        with self._lock:
            return [engine for engine in self._attached.values() if engine.is_complete]

    def take_copies(self) -> list[Copy]:
        """The copies begun in halves, finished now. The list is empty afterwards."""
        with self._lock:
            copies, self._copies = self._copies, []
            for copy in copies:
                copy.finish()
            return copies

    @property
    def copies_begun(self) -> int:
        return len(self._copies)

    def forget(self) -> None:
        """Drops everything that is stored."""
        with self._lock:
            self._forget()

    def tell_presence(self, is_told: bool) -> None:
        """Whether the presence filter knows what is stored. Without it, nobody loads at a request's demand."""
        with self._lock:
            self._presence.pages_cleared()
            for group, key in self.stored if is_told else ():
                self._presence.page_added(key, group)

    @property
    def held_pages(self) -> int:
        """Pages whose fill has begun, and is not answered."""
        return len(self._scribbled)

    def touched_pages(self) -> list[int]:
        """Of those, the ones in which something else is now than what we have written there."""
        with self._lock:
            return [page for engine, page, group in self._scribbled if not engine.is_scribbled(page, group)]

    def release_fills(self) -> None:
        """Finishes the fills that are held, well."""
        with self._lock:
            held, self._held = self._held, []
            self._scribbled = []
            for finish in held:
                finish()

    # -- the thread --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(0.05):
                with self._lock:
                    key.data()
        with self._lock:
            for fd in list(self._channels):
                self._hang_up(fd)
            assert self._listener is not None
            self._selector.close()
            self._listener.close()
            self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            channel = Channel(sock, "the engine", self.manner.api)
            self._channels[sock.fileno()] = (channel, "")
            self._selector.register(sock, selectors.EVENT_READ, lambda: self._read(channel))

    def _read(self, channel: Channel) -> None:
        fd = channel.sock.fileno()
        try:
            message = channel.receive()
        except BlockingIOError:
            return
        except RekindleError as error:
            self.problems.append(str(error))
            message = None
        if message is None:
            self.hang_ups += 1
            self._hang_up(fd)
            return
        try:
            self._take(channel, message)
        except (RekindleError, KeyError, ValueError, OSError) as error:
            self.problems.append(f"{message.type}: {error}")
            self._hang_up(fd)
        finally:
            message.close_fds()

    def _hang_up(self, fd: int) -> None:
        channel, instance = self._channels.pop(fd)
        self._selector.unregister(fd)
        channel.close()
        engine = self._attached.pop(instance, None)
        if engine is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(engine.wake_fd)
            self._drain(engine)  # the last pages of an engine that was killed: its salvage
            engine.close()

    def _take(self, channel: Channel, message: Message) -> None:
        if message.type == "hello":
            self._take_hello(channel, message)
            return
        engine = self._attached[self._channels[channel.sock.fileno()][1]]
        if message.type == "plan":
            self._plan(engine, message)
        elif message.type == "fill":
            self._fill(engine, message)
        elif message.type == "reset":
            self.resets.append(dict(message["identity"]))
            self._forget()
            engine.take_reset(message)
            self._welcome(engine)
        elif message.type not in ("report", "requests"):
            raise ProtocolError("receive", message.type, "the kit did not expect it")

    # -- attaching ---------------------------------------------------------------------------------------------

    def _take_hello(self, channel: Channel, message: Message) -> None:
        self.hellos.append(dict(message.fields))
        refusal = self.manner.refusal
        if refusal is not None:
            fields = {"code": refusal.code, "message": f"{refusal.op} {refusal.subject}: {refusal.problem}"}
            self._send(channel, "refuse", hint=refusal.hint, **fields)
            self._hang_up(channel.sock.fileno())
            return
        engine = self._attached.setdefault(message["instance"], Attached())
        self._channels[channel.sock.fileno()] = (channel, message["instance"])
        if message["role"] == "leader":
            engine.take_leader(channel, message)
            self._selector.register(engine.wake_fd, selectors.EVENT_READ, lambda: self._rung(engine))
        else:
            engine.take_rank(channel, message)
            self._send(channel, "welcome", state="waiting", stored_pages=0, restore_budget_s=0)
        if engine.is_complete:
            self._welcome(engine)

    def _welcome(self, engine: Attached) -> None:
        manner = self.manner
        told: dict[str, Any] = {"stored_pages": len(self.stored), "restore_budget_s": manner.restore_budget_s}
        told |= {"fill_timeout_s": manner.fill_timeout_s, "state": "attached"}
        self._send(engine.leader, "welcome", [self._presence.fd], **told)

    def _send(self, channel: Channel | None, type_: str, fds: Any = (), **fields: Any) -> None:
        assert channel is not None
        channel.send(type_, fds, **{**self.manner.extra, **fields})

    # -- pages -------------------------------------------------------------------------------------------------

    def _rung(self, engine: Attached) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(engine.wake_fd)
        self._drain(engine)

    def _drain(self, engine: Attached) -> None:
        if not engine.is_complete or engine.is_void:
            return
        for record in engine.drain(self.problems):
            copy = Copy(engine, record)
            if self.manner.copies is Copies.IN_HALVES:
                copy.begin()
                self._copies.append(copy)
            else:
                copy.finish()
                self._store(copy)

    def _store(self, copy: Copy) -> None:
        """Pages without their parent are turned away, as in a catalog: they are announced once more, behind it."""
        record = copy.record
        is_orphan = record.parent != ROOT and (record.group, record.parent) not in self.stored
        if copy.is_good and not is_orphan and (record.group, record.key) not in self.stored:
            self.stored[record.group, record.key] = StoredPage(record.parent, record.tokens, copy.data)
            self._presence.page_added(record.key, record.group)

    def _forget(self) -> None:
        self.stored.clear()
        self._presence.pages_cleared()

    def _plan(self, engine: Attached, message: Message) -> None:
        """Everything that is stored, in the order in which it came: parents before their children."""
        rows = [
            [key.hex(), page.parent.hex(), group, b"".join(t.to_bytes(4, "little") for t in page.tokens).hex()]
            for (group, key), page in self.stored.items()
        ][: max(0, message["max_pages"])]
        parts = [rows[i : i + PLAN_ROWS] for i in range(0, len(rows), PLAN_ROWS)] or [[]]
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            self._send(engine.leader, "pages", plan_id=message["plan_id"], pages=part, last=is_last)

    def _fill(self, engine: Attached, message: Message) -> None:
        fill_id, rows = message["fill_id"], message["pages"]

        def finish() -> None:
            with contextlib.suppress(RekindleError, OSError, ValueError):  # the engine may have gone meanwhile
                answers = [[row[0], self._put_back(engine, *row)] for row in rows]
                self._send(engine.leader, "filled", fill_id=fill_id, pages=answers)

        if self.manner.fills is Fills.HELD:
            for page_id, _, group, _ in rows:
                engine.scribble(page_id, group)
                self._scribbled.append((engine, page_id, group))
            self._held.append(finish)
        else:
            finish()

    def _put_back(self, engine: Attached, page_id: int, epoch: int, group: int, key: str) -> str:
        """The reason why not; "" when the page is there."""
        page = self.stored.get((group, bytes.fromhex(key)))
        if page is None:
            return "not-stored"
        if engine.epoch(page_id) != epoch:
            return "fence-moved"
        if self.manner.fills is Fills.DAMAGED:
            engine.scribble(page_id, group)
            return "checksum"
        engine.write(page_id, group, page.data)
        return ""
