"""A connection to the engine is used again: what is sent on one that the engine has given up goes out on a new one."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest
from driving import Pod, Proxied

EVENT = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "nano"}
MODELS = {"object": "list", "data": [{"id": "nano", "owned_by": "rekindle"}]}


class Fickle(socketserver.ThreadingTCPServer):
    """Speaks as a nano engine. Hangs up on the second completion of a connection, once it has read it."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.completions: list[int] = []
        """For each one that came: the how manieth of its connection it was."""


class _Connection(socketserver.StreamRequestHandler):
    server: Fickle

    def handle(self) -> None:
        count = 0
        while True:
            line = self.rfile.readline()
            length = 0
            while (header := self.rfile.readline().strip().lower()) != b"":
                if header.startswith(b"content-length:"):
                    length = int(header.partition(b":")[2])
            self.rfile.read(length)
            if not line:
                return
            if b"/v1/completions" not in line:
                body = json.dumps(MODELS).encode()
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                continue
            count += 1
            self.server.completions.append(count)
            if count == 2:
                return
            self._answer()

    def _answer(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        choice = {"index": 0, "text": "a", "finish_reason": "length", "token_ids": [97]}
        for data in (json.dumps(EVENT | {"choices": [choice]}), "[DONE]"):
            event = f"data: {data}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def fickle() -> Iterator[Fickle]:
    server = Fickle()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_connection_that_the_engine_gives_up_is_no_death(make_pod: Callable[..., Pod], fickle: Fickle) -> None:
    proxied = Proxied(make_pod, engine_port=fickle.server_address[1]).start(engine=False)
    answers = 0
    # Whether a connection is used again is a matter of time: its last answer's end has to have come.
    while 2 not in fickle.completions:
        assert answers < 200, "no connection was ever used again"
        client = proxied.stream("a", 1).finished()
        assert client.text == "a"
        answers += 1
    assert proxied.stream("a", 1).finished().text == "a"
    assert "connection to the engine lost" not in proxied.pod.sidecar.output()
