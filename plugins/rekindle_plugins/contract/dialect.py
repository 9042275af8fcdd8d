"""The dialect: what the stream proxy must know of an engine's HTTP to continue an answer after the engine's death.

Part of the adapter (capability `stream-resume`). Pure: bytes and JSON in, bytes and JSON out; no clock, no I/O, no
randomness of its own. The proxy does the talking, and asks:

    recognises, questions, learn   is the engine behind that address one of mine, and what can this one do?
    open                           a request of a client: one that can be protected becomes a `Conversation`

A conversation is one request and all that has come of it, over any number of engines. It is fed every event of an
engine's answer and says what of it goes to the client (`take`); after a death it says how to go on (`resume`):

    Way.FRESH        nothing has reached the client: the request again, as it was
    Way.CONTINUE     prompt and generated tokens as the new prompt, budgets decremented
    Way.REPLAY       the request again from its start; the client gets only what it has not seen
    Way.IMPOSSIBLE   an error, with the reason

Whatever a fresh engine says again is compared with what the client has: an engine that says something else raises
`NotResumableError`. So an answer is the one that was begun, or it ends with an error. It never changes silently.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rekindle_plugins.contract.errors import RekindleError


class NotResumableError(RekindleError):
    """An answer cannot be continued exactly; the problem is worded for the client."""

    code = "not_resumable"

    def __init__(self, reason: str) -> None:
        super().__init__("resume", "answer", reason)


@dataclass(frozen=True)
class EngineRequest:
    """A request to the engine. `path` begins with a slash."""

    path: str
    body: bytes = b""
    method: str = "POST"


@dataclass(frozen=True)
class EngineAnswer:
    """What the engine answered to one; status 0 where it did not."""

    status: int
    body: bytes


class Way(enum.Enum):
    """How an answer goes on after a death; see above."""

    FRESH = "fresh"
    CONTINUE = "continue"
    REPLAY = "replay"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True)
class Resumption:
    """The way, the request that starts it (None: there is none), and why it is this way."""

    way: Way
    request: EngineRequest | None
    reason: str = ""


class Turn(enum.Enum):
    """Where an answer is after an event."""

    GOING = "going"
    COMPLETE = "complete"
    """The client has all of it, up to the end-of-stream mark."""
    DIED = "died"
    """The event says that the engine is dying. It is not for the client."""
    ABORTED = "aborted"
    """The engine ends the answer of its own accord: it is being stopped, or has been told to drop all that it does. The
    event is for the client only where that engine lives on: see `believe`."""


@dataclass(frozen=True)
class Taken:
    """What an event of the engine means. `out`: whole server-sent events for the client, or nothing."""

    out: bytes
    turn: Turn = Turn.GOING


class Conversation(ABC):
    """One protected request of a client. Not shared between tasks."""

    client_streams: bool
    """The client asked for server-sent events. Otherwise it gets `whole()` at the end."""
    engine_streams: bool
    """The engine is asked for server-sent events. Otherwise its answer is passed on as it is, when all of it is there;
    after a death the request is sent again."""
    token_count: int = 0
    """Tokens that the client has, or would have if it streamed, as far as they are known."""
    place: int = 0
    """Where in the answer the present engine is: tokens that it was given, and those that it has generated, also again.
    What tells progress from standing still."""
    journal_bytes: int = 0
    """About what is kept of it: the request too."""

    @abstractmethod
    def request(self) -> EngineRequest:
        """What to send first: the client's request, and a little more of the engine's own information asked for."""

    def outdate(self) -> None:  # noqa: B027 - most engines have nothing of the kind
        """The request has been held back for long, before it was sent: `request` may not name any more what another
        engine has ready for it for a while only. After a death that is so anyway."""

    @abstractmethod
    def take(self, data: bytes) -> Taken:
        """The next event's data. Raises NotResumableError when a fresh engine says something else than the old one,
        and for an event that cannot be read after a resumption."""

    def believe(self) -> None:  # noqa: B027 - most engines abort nothing
        """The engine that aborted the answer lives on. `take` is called again with that event, which is the end."""

    def judge(self, body: bytes) -> Turn:
        """What a whole answer (200) means where `engine_streams` is false: COMPLETE, DIED or ABORTED. Never raises."""
        return Turn.COMPLETE

    @abstractmethod
    def resume(self, dialect: Dialect) -> Resumption:
        """How to go on; `dialect` knows the fresh engine. Called after every death."""

    @abstractmethod
    def refuse(self, reason: str) -> None:
        """The way that `resume` gave led nowhere: the fresh engine refused it, or says something else. `resume` is
        called next, and gives another."""

    @abstractmethod
    def forget(self) -> None:
        """There is too much to keep: from now on nothing is, and the answer cannot be resumed in any way. Called where
        `client_streams` only: of another answer the journal is all that there is."""

    @abstractmethod
    def remainder(self) -> bytes | None:
        """What is missing for the client where the engine died after its last token; None where tokens are missing."""

    @abstractmethod
    def whole(self) -> bytes:
        """The complete answer for a client that does not stream."""


class Dialect(ABC):
    """One engine's HTTP. Stateless but for what `learn` found out and `told` was given."""

    model_list_path: ClassVar[str] = "/v1/models"

    @abstractmethod
    def recognises(self, models: bytes) -> bool:
        """Whether the engine that answers so to GET `model_list_path` speaks this dialect. Never raises."""

    def questions(self, models: bytes) -> Sequence[EngineRequest]:
        """What else to ask a fresh engine before it is used. Cheap for it, and without effect on anybody else."""
        return ()

    def learn(self, answers: Sequence[EngineAnswer]) -> Dialect:
        """A dialect that knows this engine. `answers`: to the questions, in their order."""
        return self

    def told(self, serving: Mapping[str, Any] | None) -> None:
        """What the engine's shim tells of its server (`client.LeaderConfig.serving`); None: nobody tells anything.

        Called for what `learn` gave, before the first request and whenever it changes. Not checked: it comes from the
        engine's process. Never raises.
        """
        return

    @abstractmethod
    def understands(self, path: str) -> bool:
        """Whether a POST to this path may be protected, so that its body is worth reading."""

    @abstractmethod
    def open(self, path: str, body: bytes, seed: int | None) -> Conversation | None:
        """A conversation for a client's POST; None for what is not understood: it passes through unprotected.

        `seed` (below 2**63) is for sampling where the client gave none, so that it can be repeated. None: such a
        request is sent without, and its answer cannot be repeated. Never raises.
        """

    def says_dying(self, answer: EngineAnswer) -> bool:
        """Whether an answer means that the engine is dead behind a server that still speaks."""
        return False
