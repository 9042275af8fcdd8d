"""Resets: when the engine's cache is dropped, everything that was stored of it is void at once."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.outcome import NotApplicableError, require


def voids(bench: Bench) -> None:
    if not bench.subject.can(Capability.CACHE_RESET):
        raise NotApplicableError("cache-reset is not declared")
    sidecar = bench.sidecar()
    engine = bench.engine()
    sidecar.when_attached()
    prompt = bench.prompt(1)
    bench.ask(engine, prompt)
    sidecar.when_stored(len(engine.live_pages()), engine.step)
    engine.reset_cache()
    require(engine.seen("reset"), "`Leader.reset` was not called when the engine's cache was dropped")
    identities = [engine.seen("leader")[0]["identity"], engine.seen("reset")[-1]["identity"]]
    require(identities[0] != identities[1], "the identity after the reset is the one before it")
    answer = bench.ask(engine, prompt)
    require(not answer.cached_tokens, f"{answer.cached_tokens} tokens were cached right after the cache was dropped")
    _require_cold_start(bench, "pages of before the reset")


def voids_at_a_kill(bench: Bench) -> None:
    """Killed before anybody could have been told."""
    if not bench.subject.can(Capability.CACHE_RESET):
        raise NotApplicableError("cache-reset is not declared")
    sidecar = bench.sidecar()
    engine = bench.engine()
    sidecar.when_attached()
    bench.ask(engine, bench.prompt(1))
    sidecar.when_stored(len(engine.live_pages()), engine.step)
    sidecar.freeze()
    engine.reset_cache()
    engine.kill()
    sidecar.thaw()
    sidecar.when_released()
    _require_cold_start(bench, "pages of before a reset that nobody had been told of")


def _require_cold_start(bench: Bench, what: str) -> None:
    for engine in bench.engines:
        engine.kill()
    fresh = bench.engine()
    answer = bench.ask(fresh, bench.prompt(1))
    require(not answer.cached_tokens, f"a fresh engine got {what}: {answer.cached_tokens} tokens were cached")


CHECKS = (
    Check("cache-reset", "a dropped cache voids at once what was stored of it", voids),
    Check("cache-reset-killed", "also when the engine is killed in that moment", voids_at_a_kill),
)
