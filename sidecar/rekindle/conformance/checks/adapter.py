"""The adapter: the half in the sidecar answers what it is asked, and never raises what is not ours."""

from __future__ import annotations

from rekindle_plugins.contract.adapter import Health, Launch, Wired
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.contract.identity import REQUIRED, Identity

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.outcome import require

FOREIGN = (
    Launch(("true",)),
    Launch(("/bin/sh", "-c", "exec true")),
    Launch((), ("--port", "80"), image="an-image"),
    Launch(("python", "-m", "http.server"), environment={"A": "b"}),
)
BODIES = (b"", b"{}", b"\xff\xfe", b"[" * 2000)


def answers(bench: Bench) -> None:
    adapter = bench.subject.adapter
    for launch in FOREIGN:
        require(adapter.recognises(launch) is False, f"the adapter takes {launch.words} for its engine")
    flags = adapter.flags()
    require(all(isinstance(flag, str) for flag in flags), f"flags are {flags!r}")
    launch = Launch(("my-engine", "--port", "80"))
    wired = adapter.wire(launch)
    require(isinstance(wired, Wired), f"wire gives {wired!r:.80}")
    words = wired.launch.words
    require(words[: len(launch.words)] == launch.words, f"wire changed the command itself: {words}")
    require(all(flag in words for flag in flags), f"wire gives {words}, flags are {flags}")
    require(adapter.wire(wired.launch).launch == wired.launch, "a command that is wired is wired once more")
    try:
        adapter.wire(Launch(("sh", "-c", "my-engine --port 80")))
    except ConfigError as error:
        require(error.hint, "a script for a shell is refused without the manual recipe")
    ours = Identity.of(dict.fromkeys(REQUIRED, "x"))
    require(not adapter.judge(ours, ours), "judge finds a reason between equal identities")
    for name in REQUIRED:
        found = adapter.judge(ours, ours.with_field(name, "y"))
        require(any(mismatch.field == name for mismatch in found), f"judge does not name {name}, which differs")
    for status in (200, 404, 500, 503):
        for body in BODIES:
            health = adapter.read_health(status, body)
            require(isinstance(health, Health), f"read_health gives {health!r:.40} for {status}")


CHECKS = (Check("adapter", "the sidecar's half answers, and knows its own engine only", answers),)
