"""Capabilities: what a plugin declares, it does."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.outcome import NotApplicableError, require, wait_for


def eager(bench: Bench) -> None:
    """Pages are back before the first request."""
    if not bench.subject.can(Capability.EAGER_RESTORE):
        raise NotApplicableError("eager-restore is not declared")
    sidecar = bench.sidecar()
    first = bench.engine()
    sidecar.when_attached()
    bench.ask(first, bench.prompt(1))
    stored = len(first.live_pages())
    sidecar.when_stored(stored, first.step)
    first.kill()
    sidecar.when_released()
    second = bench.engine()
    found = len(second.seen("adopt"))
    require(found >= stored, f"{found} pages were taken back before the engine could serve, {stored} were stored")
    restored = sidecar.when("a report of the restore", lambda s: s.last_recovery and s.last_recovery.finished_unix)
    told = restored.last_recovery.pages_restored if restored.last_recovery else 0
    require(told >= stored, f"the shim reported {told} restored pages to the sidecar, {stored} were stored")


def lazy(bench: Bench) -> None:
    """A page that the engine has evicted comes back when a request asks for it, in the same engine."""
    if not bench.subject.can(Capability.LAZY_RESTORE):
        raise NotApplicableError("lazy-restore is not declared")
    probe = bench.probe()
    engine = bench.engine()
    wait_for("the engine attaches", lambda: probe.attached, bench.limits.event_s)
    prompt = bench.prompt(1)
    bench.ask(engine, prompt)
    wait_for("its pages are stored", lambda: len(probe.stored) >= len(engine.live_pages()), bench.limits.event_s)
    bench.fill_cache(engine)
    fills = len(engine.seen("fill"))
    bench.expect_cached(engine, prompt)
    require(len(engine.seen("fill")) > fills, "the prompt was still in the engine's cache: the driver's is too large")


CHECKS = (
    Check("eager-restore", "stored pages are in the engine's own cache before it serves", eager),
    Check("lazy-restore", "evicted pages come back at a request's demand", lazy),
)
