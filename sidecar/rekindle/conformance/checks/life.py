"""The order of life: initialize, attach, finalize, and no link to the sidecar outside of it."""

from __future__ import annotations

from collections import defaultdict

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.outcome import require, wait_for

WANTED = ["initialized", "attached", "finalized"]


def order(bench: Bench) -> None:
    probe = bench.probe()
    engine = bench.engine()
    wait_for("both halves attach", lambda: probe.attached, bench.limits.event_s)
    bench.ask(engine, bench.prompt(1))
    engine.close()
    stages: dict[int, list[str]] = defaultdict(list)
    for event in engine.seen("stage"):
        if stages[event["owner"]][-1:] != [event["stage"]]:  # what is finalized may be again
            stages[event["owner"]].append(event["stage"])
    require(stages, "no shim entered a stage: `Shim.stages` is not used")
    for lived in stages.values():
        require(lived == WANTED, f"a shim's life was {' → '.join(lived)}, wanted {' → '.join(WANTED)}")
    events = engine.seen("stage", "link")
    first_link = next((i for i, event in enumerate(events) if event["event"] == "link"), len(events))
    has_attached = any(event.get("stage") == "attached" for event in events[:first_link])
    require(has_attached, "a link to the sidecar was started before the shim entered `attached`")
    require(not probe.problems, f"the sidecar's side saw: {'; '.join(probe.problems)}")
    wait_for("every link to end with `finalize`", lambda: probe.hang_ups >= 2, bench.limits.event_s)


CHECKS = (Check("life", "a shim is initialized, attached and finalized, in this order", order),)
