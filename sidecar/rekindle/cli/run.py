"""``rekindle run -- COMMAND…``: an engine and its sidecar without Kubernetes, restarted when they die."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rekindle.cli.options import as_arguments, config_flags, load_config
from rekindle.cli.times import Seconds
from rekindle.config import make_run_dir


def _time(flag: str, name: str, default: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(flag, name, type=Seconds(0.01), default=default, show_default=True, help=text)


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@config_flags
@_time("--restart-delay", "restart_delay_s", "500ms", "Before the first restart; doubled with every further one.")
@_time("--restart-delay-limit", "limit_s", "30s", "The longest of them.")
@_time("--healthy-after", "healthy_s", "60s", "An engine that lived so long begins with the first delay again.")
@click.option("--backend", help="The engine's plugin, where the command does not tell. See `rekindle plugin list`.")
@_time("--grace", "grace_s", "15s", "Between SIGTERM and SIGKILL when the engine is to end.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    config_file: Path | None,
    restart_delay_s: float,
    limit_s: float,
    healthy_s: float,
    grace_s: float,
    backend: str | None,
    command: tuple[str, ...],
    **flags: object,
) -> None:
    """Run COMMAND (an engine) with a sidecar beside it, and restart whichever dies.

    Takes every flag of serve, then `--`, then the engine's command. The engine is restarted when it dies and when it
    hangs (--hang-timeout), with a pause that doubles; a sidecar that is running in the run dir already is used. An
    exit with 0 is no death, but for a server that has attached: vLLM's exits so when its engine process was killed.
    To stop the engine, stop this. The exit code is the engine's.
    """
    from rekindle.backends import discover
    from rekindle.cli.child import adopt_orphans
    from rekindle.cli.engine_command import engine_environment, wired
    from rekindle.cli.supervisor import Plan, Policy, SidecarFailedError, Supervisor

    config, warnings = load_config(config_file, flags)
    for warning in (*warnings, *make_run_dir(config)):
        say(warning)
    backends = discover(config.plugin_dirs)
    environ = engine_environment(os.environ, config.run_dir, backends.folders)
    engine = wired(command, backends, backend, environ)
    if engine.note:
        say(engine.note)
    sidecar = [sys.executable, "-m", "rekindle.cli", "serve", *as_arguments(config_file, flags)]
    plan = Plan(
        sidecar=sidecar,
        sidecar_environment=os.environ,
        admin_socket=config.admin_socket,
        engine=engine.arguments,
        engine_environment=engine.environment,
        serves_until_stopped=engine.serves_until_stopped,
    )
    policy = Policy(
        restart_delay_s,
        max(limit_s, restart_delay_s),
        healthy_s,
        grace_s,
        watch_period_s=min(config.hang_timeout_s / 10 or Policy.watch_period_s, Policy.watch_period_s),
    )
    adopt_orphans()

    async def supervise() -> int:
        return await Supervisor(plan, policy, say).run()

    try:
        sys.exit(asyncio.run(supervise()))
    except SidecarFailedError as error:
        say(f"the sidecar did not start (exit code {error.code}), so neither did the engine")
        sys.exit(error.code if error.code > 0 else 1)


def say(line: str) -> None:
    """One line per event, on stderr, between the children's own."""
    click.echo(f"rekindle run: {line}", err=True)
