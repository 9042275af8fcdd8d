"""Times on the command line: ``250ms``, ``10s``, ``2m``, or seconds as a bare number, as the settings have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    Base = click.ParamType[float]
else:  # it takes no arguments before click 8.2
    Base = click.ParamType


class Seconds(Base):
    """Seconds as a float, within bounds."""

    name = "time"

    def __init__(self, least_s: float = 0.0, most_s: float = 3600.0) -> None:
        self._least_s, self._most_s = least_s, most_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from rekindle.config import parse_duration

        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        if not self._least_s <= seconds <= self._most_s:
            self.fail(f"{value!r} is not between {self._least_s:g}s and {self._most_s:g}s", param, ctx)
        return seconds
