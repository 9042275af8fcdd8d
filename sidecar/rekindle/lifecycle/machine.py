"""One engine's life as a pure state machine: a table, a step function, no I/O, no clock, no logging.

    waiting ──ATTACHED──▶ attached ──PLAN_ASKED──▶ restoring ──RESTORE_ENDED──▶ running
       ▲                     │  └────COMMITTED──────────┼──────────────────────────▲ │
       │                     └──────────────┬───────────┴──────LOST────────────────┬─┘
       └──SALVAGE_ENDED── salvaging ◀──SALVAGE_BEGUN── lost ◀──────────────────────┘

Invariant: a copier may exist only between START_COPIERS and RELEASE, and RELEASE is on every way back to waiting.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from rekindle_plugins.contract.errors import RekindleError


class State(enum.Enum):
    WAITING = "waiting"
    ATTACHED = "attached"
    RESTORING = "restoring"
    RUNNING = "running"
    LOST = "lost"
    SALVAGING = "salvaging"


class Event(enum.Enum):
    ATTACHED = "attached"
    """The leader and every rank are connected."""
    PLAN_ASKED = "plan-asked"
    RESTORE_ENDED = "restore-ended"
    COMMITTED = "committed"
    """The engine announced a page: it computes."""
    LOST = "lost"
    """Any of its connections ended."""
    SALVAGE_BEGUN = "salvage-begun"
    SALVAGE_ENDED = "salvage-ended"


class Action(enum.Enum):
    START_COPIERS = "start-copiers"
    SALVAGE = "salvage"
    RELEASE = "release"
    """No process of ours may hold the engine's memory after this."""
    REPORT_DEATH = "report-death"
    REPORT_RELEASE = "report-release"
    REPORT_PLAN = "report-plan"
    REPORT_RESTORE = "report-restore"


TABLE: Mapping[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (State.WAITING, Event.ATTACHED): (State.ATTACHED, (Action.START_COPIERS,)),
    (State.WAITING, Event.LOST): (State.WAITING, (Action.RELEASE,)),
    (State.ATTACHED, Event.PLAN_ASKED): (State.RESTORING, (Action.REPORT_PLAN,)),
    (State.ATTACHED, Event.COMMITTED): (State.RUNNING, ()),
    (State.ATTACHED, Event.RESTORE_ENDED): (State.RUNNING, (Action.REPORT_RESTORE,)),
    (State.ATTACHED, Event.LOST): (State.LOST, (Action.REPORT_DEATH, Action.SALVAGE)),
    (State.RESTORING, Event.PLAN_ASKED): (State.RESTORING, ()),
    (State.RESTORING, Event.COMMITTED): (State.RUNNING, ()),
    (State.RESTORING, Event.RESTORE_ENDED): (State.RUNNING, (Action.REPORT_RESTORE,)),
    (State.RESTORING, Event.LOST): (State.LOST, (Action.REPORT_DEATH, Action.SALVAGE)),
    (State.RUNNING, Event.COMMITTED): (State.RUNNING, ()),
    (State.RUNNING, Event.PLAN_ASKED): (State.RUNNING, ()),
    (State.RUNNING, Event.RESTORE_ENDED): (State.RUNNING, (Action.REPORT_RESTORE,)),
    (State.RUNNING, Event.LOST): (State.LOST, (Action.REPORT_DEATH, Action.SALVAGE)),
    (State.LOST, Event.LOST): (State.LOST, ()),
    (State.LOST, Event.SALVAGE_BEGUN): (State.SALVAGING, ()),
    (State.SALVAGING, Event.LOST): (State.SALVAGING, ()),
    (State.SALVAGING, Event.SALVAGE_ENDED): (State.WAITING, (Action.RELEASE, Action.REPORT_RELEASE)),
}


class TransitionError(RekindleError):
    """An event that cannot happen in this state: a bug of ours."""

    code = "transition"


def step(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """The next state and what is to be done, in order. Raises TransitionError for an impossible pair."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise TransitionError("handle", event.value, f"it cannot happen while {state.value}") from None
