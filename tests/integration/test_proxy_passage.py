"""What the proxy does not understand passes through as it is; what is too much is refused, or passes unprotected."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest
from driving import Pod, Proxied, Reference, until
from driving.proxied import ask
from driving.reference import prompt


@pytest.fixture
def proxied(make_pod: Callable[..., Pod]) -> Proxied:
    return Proxied(make_pod, http=":0").start()


ASKED: list[tuple[str, str, bytes | None]] = [
    ("GET", "/v1/models", None),
    ("GET", "/health?a=%2F&b=../x", None),
    ("GET", "/v1/../nothing%20here", None),
    ("PUT", "/v1/completions", b"{}"),
    ("POST", "/reset_prefix_cache", b""),
    ("POST", "/v1/completions", b"not json"),
    ("POST", "/v1/completions", b'{"prompt": 3}'),
    ("POST", "/v1/completions", b'{"prompt": "a", "n": 2}'),
    ("POST", "/v1/completions", b'{"prompt": "a", "stream": true, "max_tokens": "many"}'),
    ("POST", "/v1/embeddings", b'{"input": "a"}'),
]


def test_answers_and_refusals_are_the_engines_own(proxied: Proxied) -> None:
    for method, path, body in ASKED:
        status, headers, content = ask(proxied.engine.settings["port"], method, path, body, X_Mine="1")
        through = proxied.ask(method, path, body, X_Mine="1")
        assert (through[0], through[2]) == (status, content)
        assert through[1].keys() - {"date", "server"} == headers.keys() - {"connection"}
        assert through[1]["content-type"] == headers["content-type"]


def test_a_stream_is_event_by_event_what_the_engine_writes(proxied: Proxied) -> None:
    body = {"prompt": "Hello", "max_tokens": 9, "stream": True}

    def events(port: int, more: dict[str, object]) -> list[object]:
        _, _, content = ask(port, "POST", "/v1/completions", json.dumps(body | more).encode())
        lines = content.decode().strip().split("\n\n")
        found = [json.loads(line[6:]) for line in lines[:-1]]
        assert lines[-1] == "data: [DONE]"
        for event in found:
            del event["id"], event["created"]
        return found

    for more in ({}, {"return_token_ids": True}):
        direct = events(proxied.engine.settings["port"], more | {"cache_salt": "direct"})
        assert events(proxied.port, more | {"cache_salt": "proxy"}) == direct


def test_a_body_that_is_too_long_to_keep_passes_unprotected_and_is_counted(proxied: Proxied) -> None:
    long = json.dumps({"prompt": [1] * 3_000_000, "max_tokens": 1}).encode()
    assert len(long) > 8 << 20
    status, _, content = proxied.ask("POST", "/v1/completions", long)
    assert status == 413
    assert b"the body exceeds" in content, "that is the engine's word"
    status, _, _ = proxied.ask("POST", "/v1/completions", b'{"prompt": "a"}', Content_Encoding="x")
    assert status == 200
    until("both to be told", lambda: _metric(proxied, "unprotected_total") == 2)


def _metric(proxied: Proxied, name: str) -> float:
    port = int(proxied.pod.sidecar.output().split('event="http listening"')[1].split("port=")[1].split()[0])
    _, _, text = ask(port, "GET", "/metrics")
    lines = [line for line in text.decode().splitlines() if line.startswith(f"rekindle_proxy_{name}")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_headers_beyond_the_limit_are_refused(proxied: Proxied) -> None:
    status, _, _ = proxied.ask("GET", "/v1/models", None, X_Long="x" * (80 << 10))
    assert status == 400
    assert proxied.ask("GET", "/v1/models")[0] == 200


def test_without_an_engine_a_request_waits_its_time_and_gets_503(make_pod: Callable[..., Pod]) -> None:
    proxied = Proxied(make_pod, proxy_wait="300ms").start(engine=False)
    for method, path, body in (("GET", "/v1/models", None), ("POST", "/v1/completions", b'{"prompt":"a"}')):
        status, headers, content = proxied.ask(method, path, body)
        assert status == 503
        assert int(headers["retry-after"]) > 0
        assert json.loads(content)["error"]["type"] == "rekindle_engine_unavailable"


def test_a_stream_whose_engine_does_not_come_back_ends_with_an_error(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    proxied = Proxied(make_pod, proxy_wait="300ms").start()
    client = proxied.stream(prompt(80), 1000)
    client.when(5)
    proxied.engine.kill()
    client.ended()
    assert client.error["type"] == "rekindle_engine_unavailable"
    assert bytes(reference.tokens(prompt(80), 1000)).decode().startswith(client.text)


def test_only_so_many_wait_for_an_engine(make_pod: Callable[..., Pod]) -> None:
    proxied = Proxied(make_pod, proxy_wait="10m", http=":0").start(engine=False)
    held = []
    try:
        for _ in range(512):
            held.append(socket.create_connection(("127.0.0.1", proxied.port)))
            held[-1].sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
        # One that is asked before all of them have been read would be let in itself.
        until("all of them to wait", lambda: _metric(proxied, "waiting") == 512, 60.0)
        status, _, content = proxied.ask("GET", "/v1/models")
        assert status == 503
        assert b"512 requests wait" in content
    finally:
        for connection in held:
            connection.close()


class Endless(socketserver.ThreadingTCPServer):
    """An engine of no known kind, which answers every GET but the health check with bytes without end."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Endless)
        self.sent_bytes = 0
        self.gone = threading.Event()


class _Endless(socketserver.BaseRequestHandler):
    server: Endless

    def handle(self) -> None:
        head = self.request.recv(65536)
        if b"/endless" not in head:
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            return
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        try:
            while True:
                self.request.sendall(b"x" * 65536)
                self.server.sent_bytes += 65536
        except OSError:
            self.server.gone.set()


@pytest.fixture
def endless() -> Iterator[Endless]:
    server = Endless()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_client_that_does_not_read_holds_up_the_engine_and_fills_no_memory(
    make_pod: Callable[..., Pod], endless: Endless
) -> None:
    proxied = Proxied(make_pod, engine_port=endless.server_address[1]).start(engine=False)
    with socket.create_connection(("127.0.0.1", proxied.port)) as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        seen = [0]

        def stands_still() -> bool:
            seen.append(endless.sent_bytes)
            return len(seen) > 100 and seen[-1] == seen[-100] > 0

        until("the engine to be held up", stands_still, 60.0)
        # What fits into four sockets' buffers, and 128 KiB of ours.
        assert endless.sent_bytes < 64 << 20
        before = endless.sent_bytes
        while endless.sent_bytes == before:
            assert client.recv(1 << 20), "it goes on when the client reads"
    assert endless.gone.wait(60), "the engine was not told that the client has left"
