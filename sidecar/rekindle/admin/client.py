"""A synchronous client of the admin API, for the CLI and for tests. Every call has a deadline.

Errors come back as what the server raised, class and hint included. gRPC is imported when a client is made. Answers are
the plain values of ``rekindle.lifecycle``; long work gives its progress first and its result last.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

from rekindle_plugins.contract.errors import RekindleError, UnavailableError

from rekindle.admin import failure
from rekindle.lifecycle.inventory import Eviction, Page, PageDetail, Plugin, Session
from rekindle.lifecycle.progress import Exported, Imported, Progress, Resized, RestorePlan, Verification
from rekindle.lifecycle.status import EngineStatus, Event, KeeperStatus, RecoveryReport

LONG_S = 6 * 3600.0
"""What long work may take where its caller says nothing: nothing is left running for ever."""
ROWS = 500

Result = TypeVar("Result")


class AdminClient:
    """One connection to one sidecar; made at the first call. Close it, or use it as a context manager.

    Every method raises UnavailableError when nobody listens at the socket or no answer came in time, and RekindleError
    for what the server raised.

    Args:
        socket: the sidecar's ``admin.sock``.
        deadline_s: how long a call may take, connecting included.
        long_deadline_s: how long verify, export, import, checkpoint, drain and a dry restore may take.
    """

    def __init__(self, socket: Path, deadline_s: float = 5.0, long_deadline_s: float = LONG_S) -> None:
        self._socket = socket.absolute()
        self._deadline_s = deadline_s
        self._long_deadline_s = long_deadline_s
        self._channel: Any = None

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection. Safe to call twice."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # -- looking -----------------------------------------------------------------------------------------------

    def status(self) -> KeeperStatus:
        """What the sidecar knows now."""
        return _value(KeeperStatus, self._call("GetStatus").status)

    def engines(self) -> list[EngineStatus]:
        return [_value(EngineStatus, engine) for engine in self._call("ListEngines").engines]

    def sessions(self, identity: str = "") -> Iterator[Session]:
        """All of them, the most recently used first, fetched as they are asked for."""
        token = ""
        while True:
            answer = self._call("ListSessions", identity=identity, page_size=ROWS, page_token=token)
            yield from (_value(Session, session) for session in answer.sessions)
            token = answer.next_page_token
            if not token:
                return

    def recent_sessions(self, count: int) -> list[Session]:
        """The most recently used ones of all open stores; at most 1,000."""
        answer = self._call("ListSessions", page_size=count)
        return [_value(Session, session) for session in answer.sessions]

    def session(self, session_id: str, with_tokens: bool = False) -> Session:
        return _value(Session, self._call("GetSession", session_id=session_id, with_tokens=with_tokens).session)

    def pages(self, session_id: str = "", identity: str = "") -> Iterator[Page]:
        """All of them, or those of one session from its root on."""
        token = ""
        while True:
            answer = self._call("ListPages", identity=identity, session_id=session_id, page_size=ROWS, page_token=token)
            yield from (_value(Page, page) for page in answer.pages)
            token = answer.next_page_token
            if not token:
                return

    def inspect(self, key: str, with_tokens: bool = False) -> PageDetail:
        return _value(PageDetail, self._call("InspectPage", key=key, with_tokens=with_tokens).detail)

    def plugins(self) -> list[Plugin]:
        return [_value(Plugin, plugin) for plugin in self._call("ListPlugins").plugins]

    def recovery_report(self, number: int = 0) -> RecoveryReport:
        """0 is the last one."""
        return _value(RecoveryReport, self._call("GetRecoveryReport", number=number).report)

    # -- changing ----------------------------------------------------------------------------------------------

    def pin(self, **target: Any) -> int:
        """``session_id`` or ``page_key``. Returns how many pages that keeps."""
        return int(self._call("Pin", **target).page_count)

    def unpin(self, **target: Any) -> int:
        """``session_id`` or ``page_key``. Returns how many pins were taken back."""
        return int(self._call("Unpin", **target).page_count)

    def evict(self, identity: str = "", **target: Any) -> Eviction:
        """``session_id``, ``page_count`` or ``everything``."""
        return _value(Eviction, self._call("Evict", identity=identity, **target).eviction)

    def pause(self) -> None:
        self._call("Pause")

    def resume(self) -> None:
        self._call("Resume")

    def set_log_level(self, level: str) -> str:
        """debug, info, warning or error. Returns what it was."""
        from rekindle.admin import convert
        from rekindle.admin.v1 import admin_pb2

        enum = admin_pb2.LogLevel.DESCRIPTOR
        answer = self._call("SetLogLevel", level=convert.enum_number(enum, level))
        return convert.enum_word(enum, answer.before)

    def resize(self, size_bytes: int, identity: str = "") -> Resized:
        answer = self._call("ResizeStore", self._long_deadline_s, identity=identity, size_bytes=size_bytes)
        return _value(Resized, answer.resized)

    # -- long work ---------------------------------------------------------------------------------------------

    def checkpoint(self) -> Iterator[Progress]:
        """Ends when nothing is pending."""
        return (_value(Progress, answer.progress) for answer in self._stream("Checkpoint"))

    def drain(self) -> Iterator[Progress]:
        return (_value(Progress, answer.progress) for answer in self._stream("Drain"))

    def restore_plan(self, identity: str = "", page_count: int = 0) -> Iterator[Progress | RestorePlan]:
        fields = {"identity": identity, "page_count": page_count, "dry_run": True}
        return self._long("Restore", "plan", RestorePlan, **fields)

    def restore(self) -> None:
        """Always refused, with the reason: see the proto."""
        for _ in self._stream("Restore"):
            pass

    def verify(self, session_id: str = "", dry_run: bool = False) -> Iterator[Progress | Verification]:
        return self._long("Verify", "verification", Verification, session_id=session_id, dry_run=dry_run)

    def export(
        self, path: Path, session_id: str = "", identity: str = "", overwrite: bool = False
    ) -> Iterator[Progress | Exported]:
        fields = {"path": str(path), "session_id": session_id, "identity": identity, "overwrite": overwrite}
        return self._long("Export", "exported", Exported, **fields)

    def import_(self, path: Path, evict: bool = False) -> Iterator[Progress | Imported]:
        from rekindle.admin.v1 import admin_pb2

        room = admin_pb2.IMPORT_ROOM_EVICT if evict else admin_pb2.IMPORT_ROOM_FREE
        return self._long("Import", "imported", Imported, path=str(path), room=room)

    # -- watching ----------------------------------------------------------------------------------------------

    def events(self, backlog: int = 0, follow: bool = True) -> Iterator[tuple[Event, int]]:
        """Events as they happen, and how many were lost before each; the first ``backlog`` of them are of before.

        Followed, it has no deadline, and ends with the sidecar.
        """
        deadline_s = None if follow else self._deadline_s
        for answer in self._stream("WatchEvents", deadline_s, backlog=backlog, only_backlog=not follow):
            yield _value(Event, answer.event), answer.lost

    # -- how ---------------------------------------------------------------------------------------------------

    def _long(self, verb: str, field: str, kind: type[Result], **fields: Any) -> Iterator[Progress | Result]:
        for answer in self._stream(verb, **fields):
            if answer.WhichOneof("answer") == field:
                yield _value(kind, getattr(answer, field))
            else:
                yield _value(Progress, answer.progress)

    def _call(self, verb: str, deadline_s: float = 0.0, **fields: Any) -> Any:
        import grpc

        deadline_s = deadline_s or self._deadline_s
        stub, request = self._prepared(verb, fields)
        try:
            return stub(request, timeout=deadline_s)
        except grpc.RpcError as error:
            raise self._failed(verb, error, deadline_s) from None

    def _stream(self, verb: str, deadline_s: float | None = 0.0, **fields: Any) -> Iterator[Any]:
        """The answers of one call; ``deadline_s`` None is no deadline. Leaving it early hangs up."""
        import grpc

        deadline_s = self._long_deadline_s if deadline_s == 0.0 else deadline_s
        stub, request = self._prepared(verb, fields)
        call = stub(request, timeout=deadline_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._failed(verb, error, deadline_s or 0.0) from None
        finally:
            call.cancel()

    def _prepared(self, verb: str, fields: dict[str, Any]) -> tuple[Any, Any]:
        """The stub's method and its request."""
        if not self._socket.exists():  # spares a second of imports to learn nothing more
            raise self._unavailable(verb, "there is no such socket")
        import grpc

        from rekindle.admin.v1 import admin_pb2, admin_pb2_grpc

        if self._channel is None:
            address = "unix:" + quote(str(self._socket))
            # Several clients of one process must not share a connection that outlives a sidecar's restart.
            self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        stub: Any = admin_pb2_grpc.AdminServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return getattr(stub, verb), getattr(admin_pb2, f"{verb}Request")(**fields)

    def _failed(self, verb: str, error: Any, deadline_s: float) -> RekindleError:
        for key, value in error.trailing_metadata() or ():
            if key == failure.DETAILS_KEY and (raised := failure.from_details(value)) is not None:
                return raised
        status = error.code().name
        if status == "DEADLINE_EXCEEDED":
            return self._unavailable(verb, f"no answer within {deadline_s:g} s")
        if status == "UNAVAILABLE":
            return self._unavailable(verb, "nobody answers there")
        hint = "is the sidecar of an older version?" if status == "UNIMPLEMENTED" else ""
        return RekindleError("call", f"{verb} at {self._socket}", f"{status}: {error.details()}", hint)

    def _unavailable(self, verb: str, problem: str) -> UnavailableError:
        hint = "is `rekindle serve` running? its folder is named with --run-dir or REKINDLE_RUN_DIR"
        return UnavailableError("call", f"{verb} at {self._socket}", problem, hint)


def _value(kind: type[Result], message: Any) -> Result:
    from rekindle.admin import convert

    return convert.value_of(kind, message)
