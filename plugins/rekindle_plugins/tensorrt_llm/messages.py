"""What the leader's half tells every rank's, through the engine's own broadcast, once per step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Copy:
    """A page that has arrived in every rank's staging memory, and the engine's block that it is for."""

    staging_page: int
    block: int


@dataclass(frozen=True)
class StepPlan:
    """Plain values only: the engine pickles it."""

    step: int
    instance: str
    """Under which the ranks attach: the leader's word, since they share no other name of this engine start."""
    copies: tuple[Copy, ...] = ()
    broken: str = ""
    """Why tokens that were claimed as loaded cannot be put in place. The step must not run then."""
