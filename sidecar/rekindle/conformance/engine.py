"""One engine start under test: the child process, its driver's calls, and what its watch has told.

Runs in the kit's process; a thread of each engine reads what the child says. The child can be killed at any instant, by
us or by an order it carries out itself; the events that it told before are all there then.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rekindle_plugins.contract.driver import Answer, EngineFacts

from rekindle.conformance.child.orders import Orders
from rekindle.conformance.outcome import BrokenPromiseError, Limits

LOG_CHARS = 1500
Event = Mapping[str, Any]


class EngineDiedError(Exception):
    """The child is gone. Expected where it was ordered to die."""


@dataclass(frozen=True)
class Raised:
    """What a driver's call raised."""

    kind: str
    text: str


class Engine:
    """`calls` go one after the other; each has a limit, and one that takes longer is a broken promise."""

    def __init__(
        self, python: str, driver: str, environment: Mapping[str, str], log: Path, orders: Orders, limits: Limits
    ) -> None:
        self.events: list[Event] = []
        self.facts: EngineFacts | None = None
        self._limits = limits
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        self._requests = 0
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        ours, theirs = socket.socketpair()
        argv = [python, "-m", "rekindle.conformance.child", str(os.getpid()), str(theirs.fileno()), driver]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*argv, json.dumps(asdict(orders))],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        theirs.close()
        self._sock = ours
        self._reader = threading.Thread(target=self._read, name=f"kit-{self._process.pid}", daemon=True)
        self._reader.start()

    # -- the driver's calls ------------------------------------------------------------------------------------

    def start(self, change: str = "") -> EngineFacts:
        self.facts = EngineFacts(**self._ask("start", self._limits.start_s, change))
        return self.facts

    def try_start(self) -> Raised | None:
        """Starts; what that raises is an answer."""
        answer = self._exchange("start", self._limits.start_s, ("",))
        if "error" in answer:
            return Raised(answer["kind"], answer["error"])
        self.facts = EngineFacts(**answer["value"])
        return None

    def submit(self, tokens: Sequence[int], max_tokens: int) -> str:
        self._requests += 1
        request_id = f"r{self._requests}"
        self._ask("submit", self._limits.call_s, request_id, list(tokens), max_tokens)
        return request_id

    def step(self) -> bool:
        return bool(self._ask("step", self._limits.call_s))

    def run(self) -> None:
        """Steps until no request is left."""
        deadline = time.monotonic() + self._limits.answer_s
        while self.step():
            if time.monotonic() > deadline:
                raise BrokenPromiseError(f"requests are not answered within {self._limits.answer_s:g} s of steps")

    def answer(self, request_id: str) -> Answer:
        found = self._ask("answer", self._limits.call_s, request_id)
        return Answer(tuple(found["tokens"]), found["cached_tokens"])

    def ask(self, tokens: Sequence[int], max_tokens: int) -> Answer:
        """One request by itself, to its end."""
        request_id = self.submit(tokens, max_tokens)
        self.run()
        return self.answer(request_id)

    def reset_cache(self) -> None:
        self._ask("reset_cache", self._limits.call_s)

    def changes(self) -> list[str]:
        return [str(name) for name in self._ask("changes", self._limits.call_s)]

    def close(self) -> None:
        """In order."""
        self._ask("close", self._limits.call_s)

    # -- what was seen -----------------------------------------------------------------------------------------

    def seen(self, *kinds: str) -> list[Event]:
        return [event for event in list(self.events) if event["event"] in kinds]

    def live_pages(self) -> dict[str, Event]:
        """Pages by key that were committed or adopted, the last word on each. Pages handed out again are among them."""
        return {event["key"]: event for event in self.seen("commit", "adopt")}

    def output(self) -> str:
        """The end of its log."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    # -- the process -------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and everything that it told before is there. Safe to call again."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._reader.join(10.0)
        self._sock.close()

    def _read(self) -> None:
        with self._sock.makefile("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # it was killed in the middle of a word
                message = json.loads(line)
                if "event" in message:
                    self.events.append(message)
                else:
                    self._answers.put(message)
        self._answers.put(None)

    def _ask(self, call: str, limit_s: float, *args: Any) -> Any:
        answer = self._exchange(call, limit_s, args)
        if "error" in answer:
            raise BrokenPromiseError(f"{call} raised {answer['error']}\n{answer['trace'].strip()}")
        return answer["value"]

    def _exchange(self, call: str, limit_s: float, args: Sequence[Any]) -> dict[str, Any]:
        try:
            self._sock.sendall(json.dumps({"call": call, "args": list(args)}).encode() + b"\n")
            answer = self._answers.get(timeout=limit_s)
        except queue.Empty:
            raise BrokenPromiseError(f"{call} did not return within {limit_s:g} s") from None
        except OSError:
            answer = None
        if answer is None:
            code = self._process.wait(limit_s)
            raise EngineDiedError(f"the engine's process ended in {call}, with {code}: {self.output()[-LOG_CHARS:]}")
        return answer
