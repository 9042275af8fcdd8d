"""The counts of engines that are gone, by backend, so that the sidecar's totals never fall and miss nothing."""

from __future__ import annotations

from collections.abc import Iterable

from rekindle.keeper.tally import Tally
from rekindle.lifecycle.totals import BackendTotals, CopierTotals

MAX_BACKENDS = 16
"""A backend's name comes from its engine: beyond so many, they count as one."""
OTHER = "other"


class Ledger:
    """Runs on the keeper's event loop. An engine is settled once, when it has been released."""

    def __init__(self) -> None:
        self._past: dict[str, Tally] = {}

    def settle(self, backend: str, tally: Tally) -> None:
        name = backend if backend in self._past or len(self._past) < MAX_BACKENDS else OTHER
        self._past.setdefault(name, Tally()).add(tally)

    def by_backend(self, present: Iterable[tuple[str, Tally]]) -> dict[str, Tally]:
        """What was settled, and the engines that are there, together."""
        sums = Ledger()
        for backend, tally in [*self._past.items(), *present]:
            sums.settle(backend, tally)
        return sums._past


def summed(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.add(tally)
    return whole


def backend_totals(tally: Tally) -> BackendTotals:
    return BackendTotals(
        checkpointed=tally.checkpointed,
        already_stored=tally.already_stored,
        restored=tally.restored,
        lost_to_overwrite=tally.lost_to_overwrite,
        lost_in_journal=tally.lost_in_journal,
        rejected=dict(tally.rejected),
        steps=tally.steps,
        deaths=tally.deaths,
        restarts=tally.restarts,
    )


def copier_totals(tally: Tally) -> dict[int, CopierTotals]:
    works = sorted(tally.copiers.items())
    return {rank: CopierTotals(work.saved_bytes, work.loaded_bytes, work.busy_s) for rank, work in works}
