"""As much of HTTP/1.1 as an engine's server needs, over asyncio streams; no pipelining, no chunked uploads."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

MAX_HEAD_BYTES = 32 * 1024
MAX_BODY_BYTES = 8 * 1024 * 1024


class HttpError(Exception):
    """A request that is answered with `status` and an error in OpenAI's form."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class HttpRequest:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def keep_alive(self) -> bool:
        return self.headers.get("connection", "keep-alive").lower() != "close"


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> HttpRequest | None:
    """The connection's next request; None when the client has hung up. Raises HttpError, ConnectionError.

    The reader's limit must be MAX_HEAD_BYTES. After an HttpError the stream's position is lost: close it.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise HttpError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {MAX_HEAD_BYTES} bytes of headers"
        ) from None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise HttpError(HTTPStatus.BAD_REQUEST, "the request line is not HTTP/1.1")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await _read_body(reader, writer, headers)
    return HttpRequest(parts[0], parts[1].partition("?")[0], headers, body)


async def _read_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        raise HttpError(HTTPStatus.LENGTH_REQUIRED, "send the body with a Content-Length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise HttpError(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
    # The digits are counted first: turning a hostile number of them into an int is slow.
    if len(length) > 12 or int(length) > MAX_BODY_BYTES:
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body exceeds {MAX_BODY_BYTES} bytes")
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        return await reader.readexactly(int(length))
    except asyncio.IncompleteReadError:
        raise ConnectionResetError("the client hung up inside a request's body") from None


def send(writer: asyncio.StreamWriter, status: HTTPStatus, content_type: str, body: bytes, keep_alive: bool) -> None:
    """Write a whole response; the caller drains."""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    )
    writer.write(head.encode("ascii") + body)


def send_json(writer: asyncio.StreamWriter, status: HTTPStatus, answer: Any, keep_alive: bool) -> None:
    send(writer, status, "application/json", json.dumps(answer).encode(), keep_alive)


def send_error(writer: asyncio.StreamWriter, error: HttpError, keep_alive: bool) -> None:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    answer = {"error": {"message": error.message, "type": kind, "code": error.status.value}}
    send_json(writer, error.status, answer, keep_alive)


class EventStream:
    """A response of server-sent events, in chunked encoding."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    async def send(self, data: str) -> None:
        """One event. Waits while the client reads slowly; ConnectionError when it has gone."""
        event = f"data: {data}\n\n".encode()
        self._writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
