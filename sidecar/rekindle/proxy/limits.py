"""Every bound of the proxy, with its reason. What an operator may have to change is a setting (``rekindle.config``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Times in seconds, sizes in bytes. One object for the whole process."""

    wait_s: float = 300.0
    """How long a request may wait for an engine: a large model takes minutes to load. A setting."""
    waiting: int = 512
    """New requests that may wait at a time. An engine that comes back gets them all at once; more would only time out
    in its queue."""
    protected: int = 4096
    """Requests journalled at a time. Engines run a few hundred."""
    body_bytes: int = 8 << 20
    """A longer body passes through unprotected: it would have to be kept until the answer's end."""
    journal_bytes: int = 64 << 20
    """Of one request: its body, its tokens and its text, at what they take in memory, which is about 100 bytes a token.
    Beyond it, its answer is no longer protected where it streams, and ends with an error where it does not."""
    journals_bytes: int = 512 << 20
    """Of all requests together; new ones pass through unprotected when it is reached. Above it by a quarter, what
    grows is no longer protected. The proxy itself takes less than 100 MiB, and a pod has 768 MiB for both."""
    event_bytes: int = 4 << 20
    """One server-sent event. A prompt's token ids and their log-probabilities stay below."""
    answer_bytes: int = 64 << 20
    """An answer that does not stream, and is kept until all of it is there, so that it can be had again."""
    head_bytes: int = 64 << 10
    """A request's line or one of its headers."""
    attempts: int = 12
    """Engines that one request may outlive. It is bounded whatever ``suspects`` says."""
    outlived_s: float = 10.0
    """An engine that has lived for so long with a request whose tokens nobody hears of was not killed by it at once."""
    proof_s: float = 2.0
    """An engine that has been there for so long has proved that it can live without a suspect: then one is sent."""
    keep_alive_s: float = 1.0
    """Between two comments to a client whose engine is away. Load balancers give up after 30 s and more; a second also
    shows the proxy early that a client has left."""
    hand_over_s: float = 5.0
    """Disaggregated serving: how long what another engine has ready for a request may be relied on. It lets go of it
    30 s after it told of it (vLLM's `kv_lease_duration`), which was some time before the request came."""
    connect_s: float = 5.0
    """To connect to an engine on the same host."""
    kept_open_s: float = 3.0
    """For how long a connection to the engine waits for the next request. Servers hang up after 5 s and more."""
    drain_s: float = 0.05
    """For an answer's end behind its last event: the connection is kept when it comes, and closed when not."""
    health_s: float = 2.0
    """For one answer of an engine's health endpoint, or to which models it has."""
    dialect_s: float = 60.0
    """An engine that is well, and does not say for so long which models it has, is taken as it is: unprotected."""
    quiet_s: float = 1.0
    """An engine that requests wait for, and that says nothing for so long, is asked whether it is well."""
    closed_looks: int = 3
    """So often, ``quiet_s`` apart, it may refuse connections and say nothing to those who have one."""
    question_s: float = 30.0
    """For an answer to one of a dialect's questions: a fresh engine's first step can be slow, and who does not answer
    is not continued as well as could be."""
    settle_s: float = 1.0
    """An engine that broke a connection and still says that it is well is believed after so long: servers outlive their
    engine by moments, and say so."""
    abort_settle_s: float = 10.0
    """One that aborted an answer, likewise: when it is stopped, its server says that it is well until the engine has
    given back its memory."""
    poll_s: float = 0.05
    """Between two looks for an engine."""
    retry_after_s: int = 5
    """What a client is told that cannot be served now."""


PROGRESS_TOKENS = 16
"""An attempt that produced so many is not what kills engines at once. About a page."""
