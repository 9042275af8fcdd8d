"""Sidecars that are absent, hung, restarted or newer: the engine serves, and is found again."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability
from rekindle_plugins.contract.wire import API_VERSION

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.outcome import wait_for
from rekindle.conformance.probe import Manner, Probe
from rekindle.conformance.sidecar import PATIENT

RESTORES = (Capability.EAGER_RESTORE, Capability.LAZY_RESTORE)
HURRIED = (*PATIENT, "--fill-timeout", "2s")


def absent(bench: Bench) -> None:
    """It starts and serves without one; one that comes later gets the live pages."""
    engine = bench.engine()
    bench.ask(engine, bench.prompt(1))
    probe = bench.probe()
    wait_for("the engine finds a sidecar that came later", lambda: probe.attached, bench.limits.event_s, engine.step)
    wait_for(
        "its live pages are announced",
        lambda: len(probe.stored) >= len(engine.live_pages()),
        bench.limits.event_s,
        engine.step,
    )


def hung(bench: Bench) -> None:
    """Stopped with SIGSTOP while the engine serves, and while another one starts: calls return all the same."""
    sidecar = bench.sidecar(HURRIED)
    first = bench.engine()
    sidecar.when_attached()
    bench.ask(first, bench.prompt(1))
    sidecar.freeze()
    bench.ask(first, bench.prompt(2))
    bench.fill_cache(first, times=1)
    bench.ask(first, bench.prompt(1))
    first.kill()
    second = bench.engine()
    bench.ask(second, bench.prompt(1))
    sidecar.thaw()
    bench.ask(second, bench.prompt(3))
    sidecar.when_attached(second.step)


def restarted(bench: Bench) -> None:
    """Killed, and started again with an empty store: live pages are announced, stored, and come back."""
    sidecar = bench.sidecar()
    engine = bench.engine()
    sidecar.when_attached()
    bench.ask(engine, bench.prompt(1))
    sidecar.end()
    sidecar.forget_everything()
    bench.ask(engine, bench.prompt(2))
    sidecar.start()
    sidecar.when_attached(engine.step)
    sidecar.when_stored(len(engine.live_pages()), engine.step)
    engine.kill()
    sidecar.when_released()
    if bench.subject.can(*RESTORES):
        again = bench.engine()
        for seed in (1, 2):
            bench.expect_cached(again, bench.prompt(seed))


def upgraded(bench: Bench) -> None:
    """In place, to the next minor: it says so in every packet, and knows fields that nobody has heard of."""
    old = bench.probe()
    engine = bench.engine()
    wait_for("the engine attaches", lambda: old.attached, bench.limits.event_s)
    bench.ask(engine, bench.prompt(1))
    wait_for("its pages are stored", lambda: len(old.stored) >= len(engine.live_pages()), bench.limits.event_s)
    old.stop()
    newer = Manner(api=(API_VERSION[0], API_VERSION[1] + 1), extra={"of_a_newer_minor": {"nobody": ["knows", 1]}})
    new = bench.probe(newer)
    wait_for("the engine attaches to the newer sidecar", lambda: new.attached, bench.limits.event_s, engine.step)
    bench.ask(engine, bench.prompt(2))
    _all_stored(bench, new, len(engine.live_pages()))
    engine.kill()
    wait_for("the end of its links", lambda: not new.attached, bench.limits.event_s)
    if bench.subject.can(*RESTORES):
        again = bench.engine()
        for seed in (1, 2):
            bench.expect_cached(again, bench.prompt(seed))


def _all_stored(bench: Bench, probe: Probe, pages: int) -> None:
    wait_for("all live pages are stored by the newer sidecar", lambda: len(probe.stored) >= pages, bench.limits.event_s)


CHECKS = (
    Check("sidecar-absent", "an engine without a sidecar serves, and is found by one that comes later", absent),
    Check("sidecar-hung", "a sidecar that is stopped delays no call of the engine for ever", hung),
    Check("sidecar-restarted", "a sidecar that lost everything gets the live pages again", restarted),
    Check("sidecar-upgraded", "a sidecar of the next minor is taken as it is", upgraded),
)
