"""Restore: a fresh engine answers as the dead one would have, and computes next to nothing for it."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.outcome import NotApplicableError, require


def equality(bench: Bench) -> None:
    if not bench.subject.can(Capability.EAGER_RESTORE, Capability.LAZY_RESTORE):
        raise NotApplicableError("neither eager-restore nor lazy-restore is declared")
    sidecar = bench.sidecar()
    first = bench.engine()
    sidecar.when_attached()
    turns = []
    for prompt in bench.prompts():
        answer = bench.ask(first, prompt)
        turns.append([*prompt, *answer.tokens])
    sidecar.when_stored(len(first.live_pages()), first.step)
    first.kill()
    sidecar.when_released()
    second = bench.engine()
    for prompt in bench.prompts():
        bench.expect_cached(second, prompt)
    for turn in turns[:1]:
        short = turn[: bench.facts.context_tokens - bench.answer_tokens]
        bench.expect_cached(second, short, bench.committed_pages([first], short))
    committed = {(event["key"], event["digest"]) for event in first.seen("commit")}
    for event in second.seen("adopt"):
        seen = f"page {event['key'][:12]} came back with other bytes than it was committed with"
        require((event["key"], event["digest"]) in committed, seen)


CHECKS = (Check("restore", "after a kill: the same tokens, from pages that came back", equality),)
