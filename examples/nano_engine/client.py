"""A blocking client for tests and demos: one completion, streamed, with the moments it took.

Standard library only; usable from any thread, one connection per completion.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit


class EngineGone(ConnectionError):
    """The engine could not be reached, or the stream broke before its end. `token_ids` had arrived."""

    def __init__(self, url: str, reason: str, token_ids: Sequence[int]) -> None:
        super().__init__(f"completion from {url}: {reason} after {len(token_ids)} tokens")
        self.token_ids = list(token_ids)


class Refused(Exception):
    """The engine answered with an error."""

    def __init__(self, url: str, status: int, message: str) -> None:
        super().__init__(f"completion from {url}: status {status}: {message}")
        self.status = status
        self.message = message


class Completion:
    """A streamed completion: iterate for token ids, then read the figures.

        with Completion(url, "Hello", max_tokens=8) as completion:
            for token in completion: ...

    Leaving it early closes the connection, which aborts the request. Raises EngineGone or Refused, from the
    constructor or while iterating. `timeout_s` is the longest silence.
    """

    def __init__(
        self,
        url: str,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 16,
        timeout_s: float = 30.0,
        **fields: Any,
    ) -> None:
        """`fields` go into the request's body as they are."""
        self.url = url
        self.request_id = ""
        self.token_ids: list[int] = []
        self.prompt_token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.first_token_s: float | None = None
        """From just before connecting to the first token; None until then."""
        body = {"prompt": prompt if isinstance(prompt, str) else list(prompt), "max_tokens": max_tokens}
        body |= {"stream": True, "return_token_ids": True} | fields
        self._started = time.perf_counter()
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
        try:
            self._connection.request("POST", "/v1/completions", json.dumps(body), {"Connection": "close"})
            self._response = self._connection.getresponse()
            if self._response.status != 200:
                raise Refused(url, self._response.status, _message(self._response.read()))
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise EngineGone(url, f"{type(error).__name__} {error}", []) from error
        except Refused:
            self.close()
            raise

    @property
    def text(self) -> str:
        return bytes(self.token_ids).decode("ascii")

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that needed no computing. Known at the end."""
        cached: int = self.usage["prompt_tokens_details"]["cached_tokens"]
        return cached

    def __iter__(self) -> Iterator[int]:
        for event in self._events():
            self.request_id = event["id"]
            self.usage = event.get("usage") or self.usage
            for choice in event["choices"]:
                self.prompt_token_ids += choice.get("prompt_token_ids") or []
                self.finish_reason = choice["finish_reason"]
                for token in choice["token_ids"]:
                    if self.first_token_s is None:
                        self.first_token_s = time.perf_counter() - self._started
                    self.token_ids.append(token)
                    yield token

    def _events(self) -> Iterator[dict[str, Any]]:
        try:
            while line := self._response.readline():
                if line == b"data: [DONE]\n":
                    return
                if line.startswith(b"data: "):
                    yield json.loads(line[len(b"data: ") :])
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise EngineGone(self.url, f"{type(error).__name__} {error}", self.token_ids) from error
        raise EngineGone(self.url, "the stream ended without [DONE]", self.token_ids)

    def close(self) -> None:
        self._connection.close()
        # http.client keeps the socket open for a response that is still being read.
        if hasattr(self, "_response"):
            self._response.close()

    def __enter__(self) -> Completion:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def complete(url: str, prompt: str | Sequence[int], *, max_tokens: int = 16, **fields: Any) -> Completion:
    """Run a completion to its end and return it. Raises EngineGone or Refused."""
    with Completion(url, prompt, max_tokens=max_tokens, **fields) as completion:
        for _ in completion:
            pass
    return completion


def _message(body: bytes) -> str:
    try:
        message: str = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")
    return message
