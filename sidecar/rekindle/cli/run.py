"""``rekindle run -- COMMAND…``: an engine and its sidecar without Kubernetes, restarted when they die."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from rekindle.cli.options import as_arguments, config_flags, load_config
from rekindle.config import make_run_dir


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@config_flags
@click.option("--restart-delay", "restart_delay_s", type=click.FloatRange(min=0.01), default=0.5, show_default=True)
@click.option("--restart-delay-limit", "limit_s", type=click.FloatRange(min=0.01), default=30.0, show_default=True)
@click.option("--healthy-after", "healthy_s", type=click.FloatRange(min=0), default=60.0, show_default=True)
@click.option("--backend", help="The engine's plugin, where the command does not tell. See `rekindle plugin list`.")
@click.option("--grace", "grace_s", type=click.FloatRange(min=0), default=15.0, show_default=True)
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

    Takes every flag of serve, then `--`, then the engine's command. The engine is restarted after any exit but 0,
    with a pause that doubles; a sidecar that is running in the run dir already is used. Times are in seconds. The
    exit code is the engine's.
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
    )
    policy = Policy(restart_delay_s, max(limit_s, restart_delay_s), healthy_s, grace_s)
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
