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


def _print_version(context: click.Context, _option: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from rekindle.cli.version import version

        context.invoke(version)
        context.exit()


@click.group(
    cls=LazyGroup,
    commands_by_name={
        "serve": LazyCommand("rekindle.cli.serve", "serve", "Run the sidecar."),
        "run": LazyCommand("rekindle.cli.run", "run", "Run an engine and its sidecar, and restart what dies."),
        "status": LazyCommand("rekindle.cli.status", "status", "Show engines, stores and the last recovery."),
        "plugin": LazyCommand("rekindle.cli.plugin", "plugin", "List, test and write plugins for engines."),
        "top": LazyCommand("rekindle.cli.top", "top", "Watch a running sidecar."),
        "report": LazyCommand("rekindle.cli.report", "report", "Draw a recovery as a page with a timeline."),
        "debug": LazyCommand("rekindle.cli.debug", "debug", "Collect what a bug report needs."),
        "engine": LazyCommand("rekindle.cli.engines", "engine", "List the engines that are attached."),
        "session": LazyCommand("rekindle.cli.session", "session", "List, show, pin, evict, export, import sessions."),
        "page": LazyCommand("rekindle.cli.page", "page", "List and inspect single pages."),
        "store": LazyCommand("rekindle.cli.store", "store", "Verify, resize, evict from the store."),
        "checkpoint": LazyCommand("rekindle.cli.flow", "checkpoint", "Wait until everything computed is stored."),
        "pause": LazyCommand("rekindle.cli.flow", "pause", "Hold checkpointing back."),
        "resume": LazyCommand("rekindle.cli.flow", "resume", "Go on after a pause or a drain."),
        "restore": LazyCommand("rekindle.cli.flow", "restore", "Show what an engine would get back (--dry-run)."),
        "drain": LazyCommand("rekindle.cli.flow", "drain", "Take no further engine; wait until all is stored."),
        "events": LazyCommand("rekindle.cli.events", "events", "Watch what happens."),
        "log-level": LazyCommand("rekindle.cli.log_level", "log_level", "Change what a running sidecar logs."),
        "demo": LazyCommand("rekindle.cli.demo", "demo", "Kill an engine in the middle of its work, and watch."),
        "inject": LazyCommand("rekindle.cli.inject", "inject", "Add the sidecar to the pods of manifests."),
        "uninject": LazyCommand("rekindle.cli.inject", "uninject", "Take it out of them again."),
        "diff": LazyCommand("rekindle.cli.inject", "diff", "Show what inject would change."),
        "webhook": LazyCommand("rekindle.cli.webhook", "webhook", "Add the sidecar to pods as they are created."),
        "stage": LazyCommand("rekindle.cli.stage", "stage", "Copy the engine half to where an engine finds it."),
        "completion": LazyCommand("rekindle.cli.completion", "completion", "Print a completion script for a shell."),
        "version": LazyCommand("rekindle.cli.version", "version", "Print the version."),
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="As `version`."
)
def cli() -> None:
    """Keep an LLM engine's KV cache through the engine's death.

    \b
    Exit codes:
      0  ok
      1  internal: a bug or a broken promise; or you said no
      2  usage or configuration
      3  unreachable: no sidecar, or no answer in time
      4  degraded: not ready, full, or something was found damaged
      5  refused: not there, not now, taken, or not what can be served
    `run` exits as its engine does; `plugin test` with 1 when a check fails.
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
