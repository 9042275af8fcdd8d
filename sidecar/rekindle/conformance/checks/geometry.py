"""Geometry: the region that the shim declares is the engine's cache, with every page where it is said to be."""

from __future__ import annotations

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.outcome import require


def declared(bench: Bench) -> None:
    probe = bench.probe()
    engine = bench.engine()
    for prompt in bench.prompts():
        bench.ask(engine, prompt)
    facts, regions, leaders = bench.facts, engine.seen("region"), engine.seen("leader")
    require(regions, "no `Rank` was started in the driver's process: the sidecar gets no memory")
    require(len(leaders) == 1, f"{len(leaders)} leaders were started, wanted one")
    for event in regions:
        region = event["region"]
        require(not event["problem"], f"region of rank {region['rank']}: {event['problem']}")
        pages, tokens = region["page_count"], [group["page_tokens"] for group in region["groups"]]
        require(pages == facts.page_count, f"the region has {pages} pages, the engine {facts.page_count}")
        require(tokens[0] == facts.page_tokens, f"its pages have {tokens[0]} tokens, the engine's {facts.page_tokens}")
        told = (leaders[0]["page_count"], leaders[0]["group_tokens"])
        require(told == (pages, tokens), f"the leader says {told} pages and tokens, the region {(pages, tokens)}")
    require(not probe.problems, f"the sidecar's side saw: {'; '.join(probe.problems)}")
    commits = engine.seen("commit")
    require(commits, "no page was committed")
    never = set(commits[0]["blank"]).intersection(*(event["blank"] for event in commits))
    require(not never, f"segments {sorted(never)} of every committed page hold only zeros: nothing is written there")
    by_digest: dict[str, str] = {}
    for event in commits:
        other = by_digest.setdefault(event["digest"], event["key"])
        seen = f"pages of keys {other[:12]} and {event['key'][:12]} hold the same bytes, in page {event['page']}"
        require(not event["digest"] or other == event["key"], seen)


CHECKS = (Check("geometry", "the declared region is the engine's cache: sizes, counts, and where pages lie", declared),)
