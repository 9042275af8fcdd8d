"""Commits: after the page's last byte is written, not before; and of every page that is complete, parents first."""

from __future__ import annotations

from rekindle.conformance.bench import ROOT, Bench
from rekindle.conformance.check import Check
from rekindle.conformance.engine import Engine
from rekindle.conformance.outcome import require


def after_completion(bench: Bench) -> None:
    """What comes too early changes under its epoch (every bench looks for that); what never comes is missing here."""
    bench.probe()
    engine = bench.engine()
    for prompt in bench.prompts():
        answer = bench.ask(engine, prompt)
        bench.require_clean()
        tokens = [*prompt, *answer.tokens[:-1]]  # the last token's KV is never computed
        wanted = len(tokens) // bench.facts.page_tokens
        found = bench.committed_pages([engine], tokens)
        require(found >= wanted, f"{found} pages of a finished request were committed as one chain, wanted {wanted}")
    _require_parents(engine)


def _require_parents(engine: Engine) -> None:
    """A page is committed after its parent, or it could not be stored."""
    known = {ROOT}
    for event in engine.seen("commit", "adopt"):
        require(event["parent"] in known, f"page {event['key'][:12]} was committed before its parent")
        known.add(event["key"])


CHECKS = (
    Check(
        "commits", "pages are committed when their KV is complete, not before, and none is left out", after_completion
    ),
)
