"""Faults in the shim: whatever breaks in it, the engine serves as if it had none, and nothing unfenced is copied."""

from __future__ import annotations

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.child.orders import Orders, Place
from rekindle.conformance.outcome import BrokenPromiseError, require

PLACES = (Place("raise_pages", 2), Place("commit", 2), Place("end_step", 2))


def broken_hooks(bench: Bench) -> None:
    """The client library raises what nobody expects, out of one call. After that, the cache is used up once."""
    bench.probe()
    for place in PLACES:
        engine = bench.make_engine(Orders(fail_at=place))
        try:
            engine.start()
            bench.ask(engine, bench.prompt(1))
            bench.fill_cache(engine, times=1)
            bench.ask(engine, bench.prompt(1))
        except BrokenPromiseError as error:
            raise BrokenPromiseError(f"with {place.call} broken: {error}") from error
        told = engine.seen("tripped")
        require(told, f"{place.call} was broken, and no `Guard` of the client library has seen it")
        bench.require_clean()
        engine.kill()


CHECKS = (Check("failing-hooks", "an error in the shim never reaches the engine", broken_hooks),)
