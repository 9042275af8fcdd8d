"""A streaming completion over HTTP, token by token, with the time of each: the demo and the benchmarks measure with it.

Stdlib only. One thread per stream. Works with any server that speaks `/v1/completions` with `return_token_ids`.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekindle_plugins.contract.errors import UnavailableError

TIMEOUT_S = 120.0


@dataclass
class Leg:
    """One request of a conversation: from its sending to its end, or to the engine's death. Times are monotonic."""

    sent_at: float
    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    cached_tokens: int | None = None
    """Prompt tokens that the engine says it did not compute. None where it does not say (the stream broke)."""
    finished: bool = False

    @property
    def first_token_s(self) -> float | None:
        return self.token_times[0] - self.sent_at if self.token_times else None


def complete(
    port: int,
    prompt: Sequence[int],
    max_tokens: int,
    *,
    salt: str | None = None,
    leg: Leg | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Leg:
    """Streams one greedy completion to its end. Raises UnavailableError when the server hangs up before that.

    `leg` is filled while the tokens come, so that a caller on another thread can look. `fields`: more of the request's.
    """
    leg = leg or Leg(time.monotonic(), len(prompt))
    body: dict[str, Any] = {
        "model": "m",
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
        **(fields or {}),
    }
    if salt is not None:
        body["cache_salt"] = salt
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise UnavailableError("complete", f"port {port}", f"status {response.status}: {response.read(300)!r}")
        for event in _events(response):
            _take(leg, event)
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError("complete", f"port {port}", f"the stream broke: {error!r}") from error
    finally:
        connection.close()
    if not leg.finished:
        raise UnavailableError("complete", f"port {port}", "the stream ended too early")
    return leg


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data: [DONE]"):
            return
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def _take(leg: Leg, event: dict[str, Any]) -> None:
    now = time.monotonic()
    for choice in event.get("choices", []):
        for token in choice.get("token_ids") or []:
            leg.tokens.append(token)
            leg.token_times.append(now)
        if choice.get("finish_reason"):
            leg.finished = True
    usage = event.get("usage")
    if usage and event.get("choices") == []:
        leg.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


def is_up(port: int) -> bool:
    """Whether the engine answers its health check."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        return False
