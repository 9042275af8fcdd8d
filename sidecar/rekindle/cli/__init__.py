"""The command ``rekindle``. ``main`` is the console script; each command's module is imported when it is run.

``rekindle --help`` must come at once and in any image, so this package imports click and nothing else: no gRPC, no
aiohttp, no numpy, not even the contract (a test holds it to that).
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from rekindle.cli.lazy import LazyCommand, LazyGroup

__all__ = ["cli", "main"]


@click.group(
    cls=LazyGroup,
    commands_by_name={
        "serve": LazyCommand("rekindle.cli.serve", "serve", "Run the sidecar."),
        "run": LazyCommand("rekindle.cli.run", "run", "Run an engine and its sidecar, and restart what dies."),
        "status": LazyCommand("rekindle.cli.status", "status", "Show engines, stores and the last recovery."),
        "top": LazyCommand("rekindle.cli.top", "top", "Watch a running sidecar."),
        "report": LazyCommand("rekindle.cli.report", "report", "Draw a recovery as a page with a timeline."),
        "debug": LazyCommand("rekindle.cli.debug", "debug", "Collect what a bug report needs."),
        "demo": LazyCommand("rekindle.cli.demo", "demo", "Kill an engine in the middle of its work, and watch."),
        "version": LazyCommand("rekindle.cli.version", "version", "Print the version."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
def cli() -> None:
    """Keep an LLM engine's KV cache through the engine's death.

    Exit codes: 0 ok, 1 internal, 2 usage or configuration, 3 unreachable, 4 degraded or not ready, 5 refused.
    """


def main() -> NoReturn:
    """Run the command line of this process and exit. The one place where errors become text and exit codes."""
    try:
        cli.main(prog_name="rekindle")
    except Exception as error:
        from rekindle_plugins.contract.errors import RekindleError

        from rekindle.admin import failure

        if not isinstance(error, RekindleError):
            raise
        click.echo(failure.explain(error), err=True)
        sys.exit(failure.outside(error).exit)
    sys.exit(0)
