"""SIGKILL at every stage of an engine's life. The next engine attaches, answers right, and has what was committed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rekindle_plugins.contract.plugin import Capability

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.child.orders import Orders, Place
from rekindle.conformance.engine import Engine, EngineDiedError
from rekindle.conformance.outcome import BrokenPromiseError, NotApplicableError, require
from rekindle.conformance.sidecar import Sidecar

RESTORES = (Capability.EAGER_RESTORE, Capability.LAZY_RESTORE)


def at(place: Place, bench: Bench) -> None:
    """The engine kills itself at one exact call, of a first life in which nothing is stored yet."""
    sidecar = bench.sidecar()
    engine = bench.make_engine(Orders(die_at=place))
    try:
        engine.start()
        sidecar.when_attached()
        engine.ask(bench.prompt(1), bench.answer_tokens)
    except EngineDiedError:
        _next_life(bench, sidecar, [engine])
        return
    raise BrokenPromiseError(f"the engine never came to call {place.count} of {place.call}")


def attached(bench: Bench) -> None:
    """Nothing was asked of it yet."""
    sidecar = bench.sidecar()
    engine = bench.engine()
    sidecar.when_attached()
    _next_life(bench, sidecar, [engine])


def mid_decode(bench: Bench) -> None:
    """Some tokens of the answer are out, and some pages of it full."""
    sidecar = bench.sidecar()
    engine = bench.engine()
    sidecar.when_attached()
    prompt = bench.prompt(1)
    engine.submit(prompt, bench.answer_tokens)
    whole = len(prompt) // bench.facts.page_tokens
    while bench.committed_pages([engine], [*prompt, *bench.reference.tokens(prompt, bench.answer_tokens)]) <= whole:
        require(engine.step(), "the request was over before a page of its answer was committed")
    _next_life(bench, sidecar, [engine])


def during_fill(bench: Bench) -> None:
    """A second engine dies when it has just asked for pages."""
    sidecar, first = _life_before(bench)
    second = bench.make_engine(Orders(die_at=Place("fill", 1)))
    try:
        second.start()
        sidecar.when_attached()
        second.ask(bench.prompt(1), bench.answer_tokens)
    except EngineDiedError:
        _next_life(bench, sidecar, [second, first])
        return
    raise BrokenPromiseError("no page was asked for, though the sidecar had some")


def after_restore(bench: Bench) -> None:
    """A second engine dies when its first page has just come back; and a third one when all have."""
    sidecar, first = _life_before(bench)
    second = bench.make_engine(Orders(die_at=Place("adopt", 1)))
    try:
        second.start()
        second.ask(bench.prompt(1), bench.answer_tokens)
    except EngineDiedError:
        pass
    else:
        raise BrokenPromiseError("no page was taken back, though the sidecar had some")
    sidecar.when_released()
    third = bench.engine()
    third.kill()
    _next_life(bench, sidecar, [third, first])


def _life_before(bench: Bench) -> tuple[Sidecar, Engine]:
    if not bench.subject.can(*RESTORES):
        raise NotApplicableError("neither eager-restore nor lazy-restore is declared")
    sidecar = bench.sidecar()
    first = bench.engine()
    sidecar.when_attached()
    bench.ask(first, bench.prompt(1))
    sidecar.when_stored(len(first.live_pages()), first.step)
    first.kill()
    sidecar.when_released()
    return sidecar, first


def _next_life(bench: Bench, sidecar: Sidecar, dead: Sequence[Engine]) -> None:
    """What any of the dead engines committed is there, where the plugin can take it back at all."""
    dead[0].kill()
    sidecar.when_released()
    prompt = bench.prompt(1)
    tokens = [*prompt, *bench.reference.tokens(prompt, bench.answer_tokens)]
    engine = bench.engine()
    sidecar.when_attached()
    whole = bench.committed_pages(dead, tokens) if bench.subject.can(*RESTORES) else 0
    # Asked for with as much of the answer as was computed: that is how a conversation goes on.
    page_tokens = bench.facts.page_tokens
    length = min(len(tokens) - 1, max(len(prompt), whole * page_tokens + 1))
    bench.expect_cached(engine, tokens[:length], whole)
    bench.ask(engine, bench.prompt(2))


CHECKS = (
    Check("kill-before-attach", "SIGKILL before the shim attaches", partial(at, Place("initialized", 1))),
    Check("kill-attached", "SIGKILL when the shim is attached and nothing was asked", attached),
    Check(
        "kill-mid-prefill",
        "SIGKILL when pages were handed out and not yet written",
        partial(at, Place("raise_pages", 2)),
    ),
    Check(
        "kill-after-commit", "SIGKILL right after a commit, before anybody was told", partial(at, Place("commit", 2))
    ),
    Check("kill-mid-decode", "SIGKILL in the middle of an answer", mid_decode),
    Check("kill-during-fill", "SIGKILL while pages are being put back", during_fill),
    Check("kill-after-restore", "SIGKILL when pages have just come back", after_restore),
)
