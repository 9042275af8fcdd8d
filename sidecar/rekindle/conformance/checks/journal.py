"""The journal's overflow: records are lost while the sidecar is busy, pages are not."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability

from rekindle.conformance.bench import Bench
from rekindle.conformance.check import Check
from rekindle.conformance.child.orders import Orders
from rekindle.conformance.outcome import require

RECORDS = 4


def overflow(bench: Bench) -> None:
    """More pages are committed than the ring holds while the sidecar is stopped."""
    sidecar = bench.sidecar()
    engine = bench.engine(orders=Orders(journal_records=RECORDS))
    sidecar.when_attached()
    sidecar.freeze()
    for prompt in bench.prompts():
        bench.ask(engine, prompt)
    pages = len(engine.live_pages())
    require(pages > RECORDS, f"{pages} pages were committed, that is no more than the {RECORDS} records of the journal")
    sidecar.thaw()
    status = sidecar.when_stored(pages, engine.step)
    lost = sum(entry.pages.lost_in_journal for entry in status.engines)
    require(lost, "the journal did not overflow: the shim does not write its commits into it")
    engine.kill()
    sidecar.when_released()
    if bench.subject.can(Capability.EAGER_RESTORE, Capability.LAZY_RESTORE):
        again = bench.engine()
        for prompt in bench.prompts():
            bench.expect_cached(again, prompt)


CHECKS = (Check("journal-overflow", "pages whose records were lost are announced again and stored", overflow),)
