"""Everything an operator may ask of a running sidecar, in one place: the admin API's verbs call nothing else.

Made by the keeper when its stores are open; closed before they are. Each part is a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rekindle.backends import Backends
from rekindle.keeper.flow import Flow
from rekindle.keeper.gate import Gate
from rekindle.keeper.inventory import Inventory
from rekindle.keeper.marks import Marks
from rekindle.keeper.reports import Reports
from rekindle.keeper.stores import Stores

if TYPE_CHECKING:
    from rekindle.keeper.engine import Engine


@dataclass(frozen=True)
class Operator:
    inventory: Inventory
    marks: Marks
    flow: Flow
    reports: Reports
    backends: Backends

    @staticmethod
    def of(
        stores: Stores, backends: Backends, reports: Reports, gate: Gate, engines: Callable[[], list[Engine]]
    ) -> Operator:
        inventory = Inventory(stores)
        return Operator(inventory, Marks(inventory), Flow(gate, engines), reports, backends)

    def close(self) -> None:
        """The stores are about to be closed."""
