"""Keys: one key is one prefix, in every process and for ever."""

from __future__ import annotations

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.engine import Engine, Event
from rekindle.conformance.outcome import require

Meaning = tuple[str, tuple[int, ...]]


def prefixes(bench: Bench) -> None:
    """Two prompts that differ in the first page only; each by itself, in two fresh engines of each kind."""
    bench.probe()
    page_tokens = bench.facts.page_tokens
    first, other = bench.prompt(1), bench.prompt(2)
    prompts = [first, [*other[:page_tokens], *first[page_tokens:]]]
    meanings: dict[str, Meaning] = {}
    for prompt in prompts:
        runs = [_commits(bench, prompt) for _ in range(2)]
        for event in runs[0]:
            _require_one_meaning(meanings, event)
        again = {event["key"]: event for event in runs[1]}
        require(again.keys() == {event["key"] for event in runs[0]}, "a fresh engine gives one prompt other keys")
        for event in runs[0]:
            seen = f"page {event['key'][:12]} has other bytes in a fresh engine that was asked the same"
            require(again[event["key"]]["digest"] == event["digest"], seen)


def _commits(bench: Bench, prompt: list[int]) -> list[Event]:
    """By an engine that has nothing to take back."""
    for probe in bench.probes:
        probe.forget()
    engine: Engine = bench.engine()
    bench.ask(engine, prompt)
    engine.kill()
    return [event for event in engine.seen("commit") if event["group"] == 0]


def _require_one_meaning(meanings: dict[str, Meaning], event: Event) -> None:
    meaning: Meaning = (event["parent"], tuple(event["tokens"]))
    known = meanings.setdefault(event["key"], meaning)
    seen = f"key {event['key'][:12]} stands for two prefixes: parents {known[0][:12]} and {meaning[0][:12]}"
    require(known == meaning, seen)


CHECKS = (Check("keys", "equal keys mean equal tokens from the start, equal parents, equal bytes", prefixes),)
