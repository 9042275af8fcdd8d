"""Everything an operator may ask of a running sidecar, in one place: the admin API's verbs call nothing else.

Made by the keeper when its stores are open; closed after them. Each part is a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rekindle.backends import Backends
from rekindle.backends.registry import Found
from rekindle.keeper.arena_bytes import Worker
from rekindle.keeper.events import EventLog
from rekindle.keeper.exporting import Exports
from rekindle.keeper.flow import Flow
from rekindle.keeper.gate import Gate
from rekindle.keeper.importing import Imports
from rekindle.keeper.inventory import Inventory
from rekindle.keeper.long_work import LongWork, Tell
from rekindle.keeper.marks import Marks
from rekindle.keeper.refusals import NotFoundError
from rekindle.keeper.reports import Reports
from rekindle.keeper.resizing import Resizing
from rekindle.keeper.scrub import Scrub
from rekindle.keeper.stores import OpenStore, Stores
from rekindle.lifecycle.inventory import Plugin
from rekindle.lifecycle.progress import RestorePlan
from rekindle.lifecycle.status import RecoveryReport

if TYPE_CHECKING:
    from rekindle.keeper.engine import Engine


@dataclass(frozen=True)
class Operator:
    inventory: Inventory
    marks: Marks
    flow: Flow
    scrub: Scrub
    exports: Exports
    imports: Imports
    resizing: Resizing
    long_work: LongWork
    events: EventLog
    reports: Reports
    backends: Backends
    worker: Worker
    engines: Callable[[], list[Engine]]

    @staticmethod
    def of(
        stores: Stores, backends: Backends, reports: Reports, gate: Gate, engines: Callable[[], list[Engine]]
    ) -> Operator:
        def announce(store: OpenStore) -> None:
            for engine in engines():
                if engine.store is store:
                    engine.announce_again()

        inventory, worker = Inventory(stores), Worker()
        return Operator(
            inventory=inventory,
            marks=Marks(inventory),
            flow=Flow(gate, engines),
            scrub=Scrub(inventory, worker, announce),
            exports=Exports(inventory, worker),
            imports=Imports(stores, worker, announce),
            resizing=Resizing(inventory, worker, engines),
            long_work=LongWork(),
            events=EventLog(),
            reports=reports,
            backends=backends,
            worker=worker,
            engines=engines,
        )

    async def restore_plan(self, identity: str, room: int | None, tell: Tell) -> RestorePlan:
        """What an engine would get that starts now, with room for as many pages as the attached one has, unless told
        otherwise. Raises RequestError, NotFoundError."""
        store = self.inventory.only(identity, "restore")
        attached = [engine.page_count for engine in self.engines() if engine.store is store]
        judge = partial(self.backends.judge, dict(store.identity.fields)["backend"])
        return await self.scrub.restore_plan(store, room or max(attached, default=None), judge, tell)

    def plugins(self) -> list[Plugin]:
        """Every plugin that was found, loaded or not."""
        return [_plugin(found) for found in self.backends.found]

    def recovery_report(self, number: int) -> RecoveryReport:
        """One report; 0 is the last one. Raises NotFoundError."""
        kept = self.reports.all()
        for report in kept[-1:] if not number else kept:
            if number in (0, report.number):
                return report
        there = f"kept: {kept[0].number} to {kept[-1].number}" if kept else "no engine has died"
        raise NotFoundError("find", f"recovery report {number or ''}".strip(), "there is none", there)

    def close(self) -> None:
        """The stores are closed, so no work is left."""
        self.events.stop()
        self.worker.close()


def _plugin(found: Found) -> Plugin:
    if found.adapter is None:
        return Plugin(found.name, found.source, False, problem=found.problem)
    info = found.adapter.info
    return Plugin(
        name=found.name,
        source=found.source,
        loaded=True,
        version=info.version,
        api_version="{}.{}".format(*info.api_version),
        engine=info.engine,
        capabilities=tuple(sorted(capability.value for capability in info.capabilities)),
        problem=found.problem,
    )
