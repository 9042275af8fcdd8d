"""Overwrites: the fence is raised before a page is written again, so that no copier ever takes half of each."""

from __future__ import annotations

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.outcome import require, wait_for
from rekindle.conformance.probe import Copies, Manner


def reuse(bench: Bench) -> None:
    """More prompts than the cache holds: pages are handed out again and again."""
    bench.probe()
    engine = bench.engine()
    bench.fill_cache(engine)
    bench.require_clean()
    require(engine.seen("raise_pages"), "`Leader.raise_pages` was never called")
    keys: dict[int, set[str]] = {}
    for event in engine.seen("commit"):
        keys.setdefault(event["page"], set()).add(event["key"])
    reused = [page for page, held in keys.items() if len(held) > 1]
    require(reused, "no page was committed twice: the shim forgets pages, or the driver's cache is too large")


def under_copy(bench: Bench) -> None:
    """A copier that has read the first half when the engine takes the page away."""
    probe = bench.probe(Manner(copies=Copies.IN_HALVES))
    engine = bench.engine()
    wait_for("the engine attaches", lambda: probe.attached, bench.limits.event_s)
    prompt = bench.prompt(1)
    bench.ask(engine, prompt)
    wait_for("copies begun", lambda: probe.copies_begun, bench.limits.event_s)
    bench.fill_cache(engine, times=2)
    digests = {(event["page"], event["epoch"]): event["digest"] for event in engine.seen("commit")}
    copies = probe.take_copies()
    for copy in copies:
        record = copy.record
        digest = digests.get((record.page_id, record.epoch))
        seen = f"page {record.page_id} was overwritten under a copy, and its epoch is still {record.epoch}"
        require(not copy.is_good or not digest or copy.digest == digest, seen)
    require(any(not copy.is_good for copy in copies), "the engine overtook no copy: the driver's cache is too large")


CHECKS = (
    Check("overwrite", "a page's fence is raised before the page is written again", reuse),
    Check("overwrite-under-copy", "a slow copier never takes an overwritten page for a good one", under_copy),
)
