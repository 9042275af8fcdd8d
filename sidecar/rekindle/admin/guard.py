"""The one place where what a verb raises becomes a gRPC status with an ErrorDetail, for every verb alike."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from rekindle_plugins.contract.errors import RekindleError

from rekindle.admin import failure

LOG = logging.getLogger("rekindle.admin")
SERVICE = "rekindle.admin.v1.AdminService"


class FailuresWithDetails(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # gRPC ships no types
    """Wraps the verbs of our service, those with one answer and those with a stream of them."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith(f"/{SERVICE}/"):
            return handler
        verb = details.method.rpartition("/")[2]
        coders = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary:

            async def answer(request: Any, context: Any) -> Any:
                try:
                    return await handler.unary_unary(request, context)
                except Exception as error:
                    return await _abort(context, _told(error, verb))

            return grpc.unary_unary_rpc_method_handler(answer, *coders)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async for response in handler.unary_stream(request, context):
                    yield response
            except Exception as error:
                await _abort(context, _told(error, verb))

        return grpc.unary_stream_rpc_method_handler(answers, *coders)


def _told(error: Exception, verb: str) -> RekindleError:
    """What the caller learns. The traceback of a bug is for our log; of that, the caller learns the kind."""
    if isinstance(error, RekindleError):
        return error
    LOG.error("admin call failed", extra={"verb": verb}, exc_info=error)
    return RekindleError("answer", verb, type(error).__name__, "it is a bug: please report it with the sidecar's log")


async def _abort(context: Any, error: RekindleError) -> None:
    code = grpc.StatusCode[failure.outside(error).grpc_status]
    metadata = ((failure.DETAILS_KEY, failure.to_details(error, code.value[0])),)
    await context.abort(code, f"{error.op} {error.subject}: {error.problem}", metadata)
