"""A pod whose clients go through the stream proxy, and such a client, which notes everything that it is sent."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from driving.nano import PLUGIN, NanoEngine
from driving.pod import Pod
from driving.polling import until

ANSWER_S = 100.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class StreamClient:
    """One request, read on a thread of its own to its end. `text`, `tokens`, … grow while it is read."""

    def __init__(self, port: int, prompt: Sequence[int] | str, max_tokens: int, **fields: Any) -> None:
        prompt = prompt if isinstance(prompt, str) else list(prompt)
        self.body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True} | fields
        self.body = {name: value for name, value in self.body.items() if value is not None}
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        self.tokens: list[int] = []
        self.events: list[dict[str, Any]] = []
        self.comments = 0
        self.finish: str | None = None
        self.usage: dict[str, Any] = {}
        self.error: dict[str, Any] = {}
        """The error that it was sent; `broken` is that of its connection."""
        self.broken = ""
        self.is_done = False
        self.answer: dict[str, Any] = {}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            head = {"Content-Type": "application/json"}
            self._connection.request("POST", "/v1/completions", json.dumps(self.body), head)
            response = self._connection.getresponse()
            self.status, self.headers = response.status, {name.lower(): value for name, value in response.getheaders()}
            if not self.headers.get("content-type", "").startswith("text/event-stream"):
                self.answer = json.loads(response.read())
                self.error = self.answer.get("error", {})
                return
            for line in response:
                self._take(line.rstrip(b"\r\n"))
            if not self.is_done and not self.error:
                self.broken = "the stream ended early"
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            self.broken = repr(error)

    def _take(self, line: bytes) -> None:
        if line.startswith(b":"):
            self.comments += 1
        if line == b"data: [DONE]":
            self.is_done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            self.events.append(event)
            self.error = event.get("error", self.error)
            self.usage = event.get("usage") or self.usage
            for choice in event.get("choices", ()):
                self.text += choice["text"]
                self.finish = choice["finish_reason"] or self.finish
                self.tokens += choice.get("token_ids") or ()

    def when(self, count: int) -> None:
        """Returns when so many tokens (characters, which is the same here) have come."""
        until(f"{count} tokens", lambda: len(self.text) >= count or not self._thread.is_alive(), ANSWER_S)

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def hang_up(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(ANSWER_S)

    def finished(self) -> StreamClient:
        """Waits for the end. AssertionError when it is not the end of a whole answer."""
        self.ended()
        assert not self.broken, self.broken
        assert not self.error, self.error
        assert self.is_done or self.answer
        return self

    def ended(self) -> StreamClient:
        self._thread.join(ANSWER_S)
        assert self.is_over, "no end of the answer"
        return self


class Proxied:
    """A pod with a proxy and one engine, which always comes back to the same port. Neither is started."""

    def __init__(self, make_pod: Callable[..., Pod], engine_port: int = 0, **settings: str) -> None:
        self.port = free_port()
        engine_port = engine_port or free_port()
        self.pod = make_pod(proxy=f"127.0.0.1:{self.port}=http://127.0.0.1:{engine_port}", **settings)
        self.engine: NanoEngine = self.pod.engine(start=False, port=engine_port)

    def start(self, engine: bool = True) -> Proxied:
        self.pod.sidecar.start()
        if engine:
            self.engine.start()
            until("the proxy to find the engine", lambda: self.ask("GET", "/v1/models")[0] == 200, ANSWER_S)
        return self

    def stream(self, prompt: Sequence[int] | str, max_tokens: int = 32, **fields: Any) -> StreamClient:
        return StreamClient(self.port, prompt, max_tokens, **fields)

    @contextlib.contextmanager
    def waiting_engine(self, steps: int, requests: int = 1, file: Path | None = None) -> Iterator[None]:
        """Engines that start in here compute so many steps with so many requests and then wait to be killed, or for a
        file."""
        self.engine.plugin = "odd_plugins.waiting:connect"
        os.environ |= {"WAITS_AFTER": str(steps), "WAITS_FOR": str(requests), "WAITS_UNTIL": str(file or "")}
        try:
            yield
        finally:
            self.engine.plugin = PLUGIN
            del os.environ["WAITS_AFTER"], os.environ["WAITS_FOR"], os.environ["WAITS_UNTIL"]

    def keep_engine_until(self, clients: Sequence[StreamClient]) -> int:
        """Restarts the engine whenever it has died, until all have their ends. How often it had to."""
        starts = 0

        def step() -> bool:
            nonlocal starts
            if not self.engine.is_running:
                self.engine.start(wait=False)
                starts += 1
            return all(client.is_over for client in clients)

        until("all answers to end", step, ANSWER_S)
        return starts

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One plain request through the proxy."""
        return ask(self.port, method, path, body, **headers)


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()
