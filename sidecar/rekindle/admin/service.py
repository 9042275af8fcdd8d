"""The verbs of ``rekindle.admin.v1``: a request read, the operator asked, the answer made a message.

Runs on the keeper's event loop. Each verb may raise RekindleError; ``admin.guard`` makes a status of it. What a verb
means is told in the proto, and done in the module of ``rekindle.keeper`` that it calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

from rekindle.admin.convert import enum_number, enum_word, message_of
from rekindle.admin.source import AdminSource
from rekindle.admin.v1 import admin_pb2 as pb
from rekindle.admin.v1 import admin_pb2_grpc
from rekindle.keeper.long_work import Tell
from rekindle.keeper.operator import Operator
from rekindle.keeper.refusals import RequestError
from rekindle.keeper.scrub import refuse_restore
from rekindle.lifecycle.progress import Exported, Imported, Progress, RestorePlan, Verification
from rekindle.log_lines import write_from

DEFAULT_ROWS = 100


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Stateless: everything is the keeper's."""

    def __init__(self, source: AdminSource) -> None:
        self._source = source

    @property
    def _operator(self) -> Operator:
        return self._source.operator

    # -- looking -----------------------------------------------------------------------------------------------

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(status=message_of(self._source.status()))

    async def ListEngines(self, request: pb.ListEnginesRequest, context: Any) -> pb.ListEnginesResponse:
        return pb.ListEnginesResponse(engines=map(message_of, self._source.status().engines))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        rows = request.page_size or DEFAULT_ROWS
        found, following = await self._operator.inventory.sessions(request.identity, rows, request.page_token)
        return pb.ListSessionsResponse(sessions=map(message_of, found), next_page_token=following)

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        found = self._operator.inventory.session(request.session_id, request.with_tokens)
        return pb.GetSessionResponse(session=message_of(found))

    async def ListPages(self, request: pb.ListPagesRequest, context: Any) -> pb.ListPagesResponse:
        rows = request.page_size or DEFAULT_ROWS
        found, following = self._operator.inventory.pages(
            request.identity, request.session_id, rows, request.page_token
        )
        return pb.ListPagesResponse(pages=map(message_of, found), next_page_token=following)

    async def InspectPage(self, request: pb.InspectPageRequest, context: Any) -> pb.InspectPageResponse:
        found = await self._operator.scrub.inspect(request.key, request.with_tokens)
        return pb.InspectPageResponse(detail=message_of(found))

    # -- keeping and letting go --------------------------------------------------------------------------------

    async def Pin(self, request: pb.PinRequest, context: Any) -> pb.PinResponse:
        marks = self._operator.marks
        if _target(request) == "session_id":
            return pb.PinResponse(page_count=marks.pin_session(request.session_id))
        return pb.PinResponse(page_count=marks.pin_page(request.page_key))

    async def Unpin(self, request: pb.UnpinRequest, context: Any) -> pb.UnpinResponse:
        marks = self._operator.marks
        if _target(request) == "session_id":
            return pb.UnpinResponse(page_count=marks.unpin_session(request.session_id))
        return pb.UnpinResponse(page_count=marks.unpin_page(request.page_key))

    async def Evict(self, request: pb.EvictRequest, context: Any) -> pb.EvictResponse:
        marks, target = self._operator.marks, _target(request)
        if target == "session_id":
            return pb.EvictResponse(eviction=message_of(marks.evict_session(request.session_id)))
        if target == "everything" and not request.everything:
            raise RequestError("evict", "pages", "everything is false", "leave it out, or name a session or a count")
        count = request.page_count if target == "page_count" else None
        return pb.EvictResponse(eviction=message_of(await marks.evict_oldest(request.identity, count)))

    # -- checkpointing -----------------------------------------------------------------------------------------

    async def Checkpoint(self, request: pb.CheckpointRequest, context: Any) -> AsyncIterator[pb.CheckpointResponse]:
        async with aclosing(self._operator.flow.checkpoint()) as progress:
            async for step in progress:
                yield pb.CheckpointResponse(progress=message_of(step))

    async def Pause(self, request: pb.PauseRequest, context: Any) -> pb.PauseResponse:
        self._operator.flow.pause()
        return pb.PauseResponse()

    async def Resume(self, request: pb.ResumeRequest, context: Any) -> pb.ResumeResponse:
        self._operator.flow.resume()
        return pb.ResumeResponse()

    async def Drain(self, request: pb.DrainRequest, context: Any) -> AsyncIterator[pb.DrainResponse]:
        async with aclosing(self._operator.flow.drain()) as progress:
            async for step in progress:
                yield pb.DrainResponse(progress=message_of(step))

    async def ResizeStore(self, request: pb.ResizeStoreRequest, context: Any) -> pb.ResizeStoreResponse:
        resized = await self._operator.resizing.resize(request.identity, request.size_bytes)
        return pb.ResizeStoreResponse(resized=message_of(resized))

    # -- the sidecar itself ------------------------------------------------------------------------------------

    async def WatchEvents(self, request: pb.WatchEventsRequest, context: Any) -> AsyncIterator[pb.WatchEventsResponse]:
        with self._operator.events.watch(request.backlog) as watcher:
            while not (request.only_backlog and watcher.is_empty):
                event, lost = await watcher.next()
                yield pb.WatchEventsResponse(event=message_of(event), lost=lost)

    async def ListPlugins(self, request: pb.ListPluginsRequest, context: Any) -> pb.ListPluginsResponse:
        return pb.ListPluginsResponse(plugins=map(message_of, self._operator.plugins()))

    async def GetRecoveryReport(
        self, request: pb.GetRecoveryReportRequest, context: Any
    ) -> pb.GetRecoveryReportResponse:
        return pb.GetRecoveryReportResponse(report=message_of(self._operator.recovery_report(request.number)))

    async def SetLogLevel(self, request: pb.SetLogLevelRequest, context: Any) -> pb.SetLogLevelResponse:
        enum = pb.LogLevel.DESCRIPTOR
        if request.level not in enum.values_by_number or not request.level:
            hint = "one of debug, info, warning, error"
            raise RequestError("set", "log level", f"there is no level {request.level}", hint)
        before = write_from(enum_word(enum, request.level))
        return pb.SetLogLevelResponse(before=enum_number(enum, before))  # type: ignore[arg-type]  # it takes numbers

    # -- long work ---------------------------------------------------------------------------------------------

    async def Restore(self, request: pb.RestoreRequest, context: Any) -> AsyncIterator[pb.RestoreResponse]:
        if not request.dry_run:
            refuse_restore()
        operator = self._operator

        def work(tell: Tell) -> Coroutine[Any, Any, RestorePlan]:
            return operator.restore_plan(request.identity, request.page_count or None, tell)

        async for answer in self._follow("restore", pb.RestoreResponse, "plan", work):
            yield answer

    async def Verify(self, request: pb.VerifyRequest, context: Any) -> AsyncIterator[pb.VerifyResponse]:
        scrub = self._operator.scrub

        def work(tell: Tell) -> Coroutine[Any, Any, Verification]:
            return scrub.verify(request.identity, request.session_id, request.dry_run, tell)

        async for answer in self._follow("verify", pb.VerifyResponse, "verification", work):
            yield answer

    async def Export(self, request: pb.ExportRequest, context: Any) -> AsyncIterator[pb.ExportResponse]:
        exports, path = self._operator.exports, _path(request.path)

        def work(tell: Tell) -> Coroutine[Any, Any, Exported]:
            return exports.export(request.session_id, request.identity, path, request.overwrite, tell)

        async for answer in self._follow("export", pb.ExportResponse, "exported", work):
            yield answer

    async def Import(self, request: pb.ImportRequest, context: Any) -> AsyncIterator[pb.ImportResponse]:
        imports, path = self._operator.imports, _path(request.path)
        may_evict = request.room == pb.IMPORT_ROOM_EVICT

        def work(tell: Tell) -> Coroutine[Any, Any, Imported]:
            return imports.import_(path, may_evict, tell)

        async for answer in self._follow("import", pb.ImportResponse, "imported", work):
            yield answer

    async def _follow(self, op: str, response: Any, field: str, work: Any) -> AsyncIterator[Any]:
        """The work's progress and result as answers of one stream, which ends the work when it is closed."""
        async with aclosing(self._operator.long_work.follow(op, work)) as steps:
            async for step in steps:
                name = "progress" if isinstance(step, Progress) else field
                yield response(**{name: message_of(step)})


def _path(text: str) -> Path:
    """Raises RequestError for what no path can be."""
    if not text or "\0" in text:
        raise RequestError("read", "path", f"{text[:40]!r} is none", "give an absolute path")
    return Path(text)


def _target(request: Any) -> str:
    """Which field of the request's oneof is set. Raises RequestError when none is."""
    target: str | None = request.WhichOneof("target")
    if target is None:
        names = [field.name for field in request.DESCRIPTOR.oneofs_by_name["target"].fields]
        raise RequestError("read", request.DESCRIPTOR.name, "it names no target", f"set one of {', '.join(names)}")
    return target
