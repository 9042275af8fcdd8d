"""Following long work: a progress bar on a terminal's stderr, nothing in a pipe, and the result."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TypeVar

from rekindle_plugins.contract.errors import UnavailableError

from rekindle.cli.output import size
from rekindle.lifecycle.progress import Progress

Result = TypeVar("Result")


def follow(title: str, steps: Iterator[Progress | Result]) -> Result:
    """The last value of ``steps``, which is its result. Raises what the call raises."""
    result = None
    for step in _shown(title, steps) if sys.stderr.isatty() else steps:
        result = step
    if result is None or isinstance(result, Progress):
        raise UnavailableError("wait for", title, "it ended without a result", "see the sidecar's log")
    return result


def wait(title: str, steps: Iterator[Progress]) -> Progress:
    """The last value of work whose result is that there is nothing left to do."""
    seen = list(_shown(title, steps) if sys.stderr.isatty() else steps)
    return seen[-1] if seen else Progress(0, 0, 0)


def _shown(title: str, steps: Iterator[Progress | Result]) -> Iterator[Progress | Result]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[moved]}"))
    with Bars(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None, moved="")
        for step in steps:
            if isinstance(step, Progress):
                moved = size(step.bytes_done) if step.bytes_done else ""
                bars.update(task, completed=step.pages_done, total=step.pages_total or None, moved=moved)
            yield step
