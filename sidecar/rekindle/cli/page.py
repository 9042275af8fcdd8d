"""``rekindle page``: the pages in the store, one by one."""

from __future__ import annotations

import sys
from itertools import islice

import click

from rekindle.cli.output import Column, ago, output_option, show_rows, show_value, size
from rekindle.cli.target import Target, target_options

COLUMNS = (
    Column("page", lambda p: p.key[:16]),
    Column("after", lambda p: "–" if not int(p.parent_key, 16) else p.parent_key[:16]),
    Column("group", lambda p: str(p.group), is_number=True),
    Column("slot", lambda p: f"{p.slot:,}", is_number=True),
    Column("tokens", lambda p: f"{p.token_count:,}", is_number=True),
    Column("size", lambda p: size(p.size_bytes), is_number=True),
    Column("last used", lambda p: ago(p.last_used_unix)),
    Column("pinned", lambda p: "yes" if p.pinned else "no"),
    Column("children", lambda p: f"{p.child_count:,}", is_number=True, is_wide=True),
    Column("store", lambda p: p.identity, is_wide=True),
    Column("key", lambda p: p.key, is_wide=True),
)


@click.group()
def page() -> None:
    """The pages in the store, one by one."""


@page.command("list")
@click.option("--session", "session_id", default="", help="Only this session's, from its root on.")
@click.option("--identity", default="", help="Only this store's.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Only the first so many.")
@output_option
@target_options
def list_(session_id: str, identity: str, limit: int | None, output: str, target: Target) -> None:
    """List pages."""
    with target.client() as client:
        show_rows(islice(client.pages(session_id, identity), limit), COLUMNS, output, "the store has no page")


@page.command()
@click.argument("key")
@click.option("--show-tokens", is_flag=True, help="Print the token ids too: what people said.")
@output_option
@target_options
def inspect(key: str, show_tokens: bool, output: str, target: Target) -> None:
    """Show one page by the first digits of its key, and whether its bytes are what was checkpointed.

    Exits with 4 when they are not.
    """
    with target.client() as client:
        found = client.inspect(key, show_tokens)
    page, damaged = found.page, ", ".join(map(str, found.damaged_ranks))
    lines = [
        ("page", page.key),
        ("after", "nothing: it is the first of its chain" if not int(page.parent_key, 16) else page.parent_key),
        ("store", page.identity),
        ("group, slot", f"{page.group}, {page.slot}"),
        ("tokens", f"{page.token_count:,}"),
        ("size", size(page.size_bytes)),
        ("last used", ago(page.last_used_unix)),
        ("pinned", "yes" if page.pinned else "no"),
        ("children", f"{page.child_count:,}"),
        ("restored", "at a request's demand only" if page.lazy_only else "when an engine starts, or at a demand"),
        *(("checksum" if not rank else "", f"rank {rank}: {text}") for rank, text in enumerate(found.checksums)),
        ("bytes", f"DAMAGED on rank {damaged}: `rekindle store verify` drops it" if damaged else "as checkpointed"),
    ]
    if show_tokens:
        lines.append(("token ids", " ".join(map(str, found.token_ids))))
    show_value(found, lines, output, [] if show_tokens else ["token_ids"])
    if damaged:
        from rekindle.admin.failure import Exit

        sys.exit(Exit.DEGRADED)
