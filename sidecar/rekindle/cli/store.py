"""``rekindle store``: the arena as a whole."""

from __future__ import annotations

import sys

import click

from rekindle.cli.output import Column, count, duration, output_option, show_rows, show_value, size
from rekindle.cli.progress import follow
from rekindle.cli.target import Target, confirm, target_options, yes_option

COLUMNS = (
    Column("store", lambda s: s.identity[:12]),
    Column("used", lambda s: size(s.used_bytes), is_number=True),
    Column("size", lambda s: size(s.size_bytes), is_number=True),
    Column("pages", lambda s: f"{s.pages:,}", is_number=True),
    Column("slots", lambda s: f"{s.slots:,}", is_number=True),
    Column("pinned", lambda s: f"{s.pinned:,}", is_number=True),
    Column("evicted", lambda s: f"{s.evicted:,}", is_number=True),
    Column("directory", lambda s: s.directory, is_wide=True),
)


@click.group()
def store() -> None:
    """The memory that holds the pages, as a whole."""


@store.command("list")
@output_option
@target_options
def list_(output: str, target: Target) -> None:
    """List the open stores, one for each identity."""
    with target.client() as client:
        show_rows(client.status().stores, COLUMNS, output, "no store is open yet: it is opened for the first engine")


@store.command()
@click.option("--session", "session_id", default="", help="Only this session's pages.")
@click.option("--dry-run", is_flag=True, help="Only tell what is damaged.")
@output_option
@target_options
def verify(session_id: str, dry_run: bool, output: str, target: Target) -> None:
    """Read every page and compare its checksum. Damaged ones are dropped, with what hangs on them.

    Exits with 4 when there were any.
    """
    with target.client() as client:
        done = follow("verifying", client.verify(session_id, dry_run))
    verdict = f"{count(done.damaged_count, 'page')} of {done.page_count:,}" if done.damaged_count else "nothing"
    lines = [
        ("verified", f"{count(done.page_count, 'page')}, {size(done.size_bytes)}, in {duration(done.seconds)}"),
        ("damaged", verdict),
        *(("", f"page {page.key[:16]}, slot {page.slot}, rank {_list(page.ranks)}") for page in done.damaged),
    ]
    if done.damaged_count:
        lines.append(("dropped", "nothing: --dry-run" if dry_run else count(done.dropped_count, "page")))
    show_value(done, lines, output)
    if done.damaged_count:
        from rekindle.admin.failure import Exit

        sys.exit(Exit.DEGRADED)


@store.command()
@click.argument("size_text", metavar="SIZE")
@click.option("--identity", default="", help="Which store, where several are open.")
@yes_option
@target_options
def resize(size_text: str, identity: str, yes: bool, target: Target) -> None:
    """Give the store another size, such as 8GiB. Engines stay attached.

    A smaller one evicts the least recently used conversations. Lasts until the sidecar restarts: change its
    --store-size too.
    """
    from rekindle.config import parse_size

    try:
        size_bytes = parse_size(size_text)
    except ValueError as error:
        raise click.UsageError(f"{size_text!r} {error}.") from None
    with target.client() as client:
        stores = [s for s in client.status().stores if s.identity.startswith(identity)]
        now = max((s.size_bytes for s in stores), default=0)
        if size_bytes < now:
            confirm(f"Shrink the store from {size(now)} to {size(size_bytes)}, and evict what no longer fits?", yes)
        done = client.resize(size_bytes, identity)
    evicted = f", {count(done.evicted_count, 'page')} evicted" if done.evicted_count else ""
    click.echo(
        f"{size(done.before_bytes)} → {size(done.after_bytes)}, {count(done.page_count, 'page')} kept{evicted}; "
        f"set --store-size {size_text} too, for the next start"
    )


@store.command()
@click.option("--pages", "page_count", type=click.IntRange(min=1), help="So many of the least recently used.")
@click.option("--all", "everything", is_flag=True, help="Every page that is not pinned or in use.")
@click.option("--identity", default="", help="Only this store's.")
@yes_option
@target_options
def evict(page_count: int | None, everything: bool, identity: str, yes: bool, target: Target) -> None:
    """Drop the least recently used pages, or all."""
    if everything == (page_count is not None):
        raise click.UsageError("Say --pages or --all.")
    confirm(f"Drop {'every page' if everything else count(page_count or 0, 'page')} from the store?", yes)
    with target.client() as client:
        chosen = {"everything": True} if everything else {"page_count": page_count}
        done = client.evict(identity, **chosen)
    kept = f"; {count(done.kept_count, 'page')} pinned or in use stay" if done.kept_count else ""
    click.echo(f"evicted {count(done.evicted_count, 'page')}, {size(done.freed_bytes)}{kept}")


def _list(ranks: tuple[int, ...]) -> str:
    return ", ".join(map(str, ranks))
