"""Fills: a page is the engine's again when its fill was answered, and worth something when the answer was good."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.engine import Engine
from rekindle.conformance.outcome import NotApplicableError, require, wait_for
from rekindle.conformance.probe import Fills, Manner, Probe


def damaged(bench: Bench) -> None:
    """Every fill leaves rubbish in its page, and the answer says so."""
    probe = _with_stored_pages(bench)
    probe.manner = Manner(fills=Fills.DAMAGED)
    engine = bench.engine()
    answer = bench.ask(engine, bench.prompt(1))
    require(engine.seen("fill"), "no fill was asked for, though the sidecar had pages")
    adopted = engine.seen("adopt")
    require(not adopted, f"{len(adopted)} pages were taken over whose fill had failed")
    require(not answer.cached_tokens, f"{answer.cached_tokens} tokens counted as cached, and nothing had come back")


def held(bench: Bench) -> None:
    """Fills that are under way for a long time: nobody touches their pages, and others are served meanwhile."""
    is_lazy = bench.subject.can(Capability.LAZY_RESTORE)
    probe = _with_stored_pages(bench)
    probe.tell_presence(is_lazy)
    probe.manner = Manner(fills=Fills.HELD, restore_budget_s=0.5, fill_timeout_s=600.0)
    engine = bench.engine()
    wait_for("the engine attaches", lambda: probe.attached, bench.limits.event_s)
    prompt = bench.prompt(1)
    waiting = engine.submit(prompt, bench.answer_tokens) if is_lazy else None
    if waiting is not None:
        wait_for("a fill for the request", lambda: probe.held_pages, bench.limits.event_s, engine.step)
    require(probe.held_pages, "no fill was asked for, though the sidecar had pages")
    _serve_others(bench, engine, stop_early=waiting is not None)
    touched = probe.touched_pages()
    require(not touched, f"pages {touched} were used by the engine while they were being filled")
    probe.manner = Manner()
    probe.release_fills()
    if waiting is not None:
        engine.run()
        tokens = engine.answer(waiting).tokens
        require(tokens == bench.reference.tokens(prompt, bench.answer_tokens), "wrong tokens after a late fill")
    else:
        bench.ask(engine, prompt)


def _serve_others(bench: Bench, engine: Engine, stop_early: bool) -> None:
    """Another prompt that nothing is stored of; where a request waits, `run` would wait for it too."""
    other = bench.prompt(77)
    if not stop_early:
        bench.ask(engine, other)
        return
    request = engine.submit(other, 2)
    wanted = bench.committed_pages([engine], other) + len(other) // bench.facts.page_tokens
    wait_for(
        "a request is served while another one waits for its fill",
        lambda: bench.committed_pages([engine], other) >= wanted,
        bench.limits.event_s,
        engine.step,
    )
    for _ in range(4):
        engine.step()
    tokens = engine.answer(request).tokens
    require(tokens == bench.reference.tokens(other, 2), "wrong tokens while another request waits for its fill")


def _with_stored_pages(bench: Bench) -> Probe:
    """A probe that has the pages of one conversation, and no engine."""
    if not bench.subject.can(Capability.EAGER_RESTORE, Capability.LAZY_RESTORE):
        raise NotApplicableError("neither eager-restore nor lazy-restore is declared")
    probe = bench.probe()
    engine = bench.engine()
    wait_for("the engine attaches", lambda: probe.attached, bench.limits.event_s)
    bench.ask(engine, bench.prompt(1))
    wait_for("its pages are stored", lambda: len(probe.stored) >= len(engine.live_pages()), bench.limits.event_s)
    engine.kill()
    wait_for("the end of its links", lambda: not probe.attached, bench.limits.event_s)
    return probe


CHECKS = (
    Check("fills-failed", "a page whose fill failed is never used", damaged),
    Check("fills-late", "pages are left alone while they are being filled, and others are served", held),
)
