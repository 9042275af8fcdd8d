"""``rekindle checkpoint``, ``pause``, ``resume``, ``drain`` and ``restore``: what goes between engine and store."""

from __future__ import annotations

import click

from rekindle.cli.output import count, duration, output_option, show_value, size
from rekindle.cli.progress import follow, wait
from rekindle.cli.target import Target, confirm, target_options, yes_option


@click.command()
@target_options
def checkpoint(target: Target) -> None:
    """Wait until everything that the engines have computed is stored."""
    with target.client() as client:
        done = wait("checkpointing", client.checkpoint())
    copied = f"; {count(done.pages_total, 'page')} were" if done.pages_total else ""
    click.echo(f"nothing is pending{copied}")


@click.command()
@target_options
def pause(target: Target) -> None:
    """Hold checkpointing back, until resume or the sidecar's restart. Restores go on, and a dead engine is salvaged."""
    with target.client() as client:
        client.pause()
    click.echo("paused; `rekindle resume` goes on")


@click.command()
@target_options
def resume(target: Target) -> None:
    """Go on after a pause or a drain."""
    with target.client() as client:
        client.resume()
    click.echo("serving")


@click.command()
@yes_option
@target_options
def drain(yes: bool, target: Target) -> None:
    """Take no further engine, and wait until everything is stored: before the sidecar or its pod is stopped."""
    confirm("Refuse every engine that wants to attach from now on?", yes)
    with target.client() as client:
        wait("draining", client.drain())
    click.echo("drained: everything is stored; `rekindle resume` takes engines again")


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would come back, and what not and why.")
@click.option("--pages", "page_count", type=click.IntRange(min=1), help="For an engine with room for so many.")
@click.option("--identity", default="", help="Which store, where several are open.")
@output_option
@target_options
def restore(dry_run: bool, page_count: int | None, identity: str, output: str, target: Target) -> None:
    """Show what an engine that starts now would get back (--dry-run).

    Pages go into an engine by themselves: when it starts, and when a request asks for them. So without --dry-run this
    is refused, with what to do instead.
    """
    with target.client() as client:
        if not dry_run:
            client.restore()
        plan = follow("looking", client.restore_plan(identity, page_count or 0))
    rejected = ", ".join(f"{reason} {number:,}" for reason, number in sorted(plan.rejected.items()))
    lines = [
        ("store", plan.identity),
        ("restored", f"{count(plan.page_count, 'page')}, {count(plan.token_count, 'token')}, {size(plan.size_bytes)}"),
        ("rejected", rejected or "nothing"),
        *(("does not fit", mismatch) for mismatch in plan.mismatches),
        ("took", duration(plan.seconds)),
    ]
    show_value(plan, lines, output)
