"""``rekindle session``: conversations that the store could give back."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import click

from rekindle.cli.output import Column, ago, count, duration, output_option, show_rows, show_value, size
from rekindle.cli.progress import follow
from rekindle.cli.report_phases import printable
from rekindle.cli.target import Target, confirm, target_options, yes_option

COLUMNS = (
    Column("session", lambda s: s.id),
    Column("request", lambda s: printable(s.request_id) or "–"),
    Column("tokens", lambda s: f"{s.token_count:,}", is_number=True),
    Column("pages", lambda s: f"{s.page_count:,}", is_number=True),
    Column("size", lambda s: size(s.size_bytes), is_number=True),
    Column("last used", lambda s: ago(s.last_used_unix)),
    Column("pinned", lambda s: pinned(s)),
    Column("store", lambda s: s.identity, is_wide=True),
    Column("leaf key", lambda s: s.leaf_key, is_wide=True),
)


def pinned(session: Any) -> str:
    """``yes``; ``12 pages`` where only a beginning of it is; ``no``."""
    if session.pinned:
        return "yes"
    return f"{count(session.pinned_count, 'page')}" if session.pinned_count else "no"


@click.group()
def session() -> None:
    """Conversations that the store could give back.

    A session is a page that no other page follows, and all pages before it. Its id is the beginning of that page's
    key: it changes when the conversation goes on. At least four of its digits name it.
    """


@session.command("list")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Only so many, the most recently used.")
@output_option
@target_options
def list_(limit: int | None, output: str, target: Target) -> None:
    """List sessions, the most recently used first."""
    with target.client() as client:
        show_rows(islice(client.sessions(), limit), COLUMNS, output, "the store has no session", ["token_ids"])


@session.command()
@click.argument("session_id")
@click.option("--show-tokens", is_flag=True, help="Print the token ids too: what people said.")
@output_option
@target_options
def show(session_id: str, show_tokens: bool, output: str, target: Target) -> None:
    """Show one session."""
    with target.client() as client:
        found = client.session(session_id, show_tokens)
    lines = [
        ("session", found.id),
        ("request", printable(found.request_id) or "–"),
        ("leaf key", found.leaf_key),
        ("store", found.identity),
        ("tokens", f"{found.token_count:,}"),
        ("pages", f"{found.page_count:,}"),
        ("size", size(found.size_bytes)),
        ("last used", ago(found.last_used_unix)),
        ("pinned", pinned(found)),
    ]
    if show_tokens:
        lines.append(("token ids", " ".join(map(str, found.token_ids))))
    show_value(found, lines, output, [] if show_tokens else ["token_ids"])


@session.command()
@click.argument("session_id")
@target_options
def pin(session_id: str, target: Target) -> None:
    """Keep a session from being evicted, also over restarts."""
    with target.client() as client:
        kept = client.pin(session_id=session_id)
    click.echo(f"pinned: {count(kept, 'page')} will stay")


@session.command()
@click.argument("session_id")
@target_options
def unpin(session_id: str, target: Target) -> None:
    """Let a session be evicted again."""
    with target.client() as client:
        freed = client.unpin(session_id=session_id)
    click.echo(f"{count(freed, 'pin')} taken back" if freed else "it was not pinned")


@session.command()
@click.argument("session_id")
@yes_option
@target_options
def evict(session_id: str, yes: bool, target: Target) -> None:
    """Drop a session's own pages; what other sessions share with it stays."""
    confirm(f"Drop session {session_id} from the store?", yes)
    with target.client() as client:
        done = client.evict(session_id=session_id)
    kept = f"; {count(done.kept_count, 'page')} shared or in use stay" if done.kept_count else ""
    click.echo(f"evicted {count(done.evicted_count, 'page')}, {size(done.freed_bytes)}{kept}")


@session.command()
@click.argument("words", nargs=-1, metavar="[SESSION_ID] PATH")
@click.option("--all", "everything", is_flag=True, help="The whole store; then only PATH is given.")
@click.option("--identity", default="", help="Which store, where several are open.")
@yes_option
@output_option
@target_options
def export(words: tuple[str, ...], everything: bool, identity: str, yes: bool, output: str, target: Target) -> None:
    """Write a session to a file: rekindle session export ID PATH, or --all PATH.

    PATH is on the sidecar's file system. The file has what people said, and is readable by the sidecar's user only.
    """
    if len(words) != (1 if everything else 2):
        raise click.UsageError("Name a session and a PATH, or say --all and name a PATH.")
    path, session_id = Path(words[-1]), "" if everything else words[0]
    if path.exists():
        confirm(f"Replace {path}?", yes)
    with target.client() as client:
        steps = client.export(path.absolute(), session_id, identity, overwrite=yes or path.exists())
        done = follow("exporting", steps)
    lines = [
        ("file", done.path),
        ("store", done.identity),
        ("pages", f"{done.page_count:,}"),
        ("size", size(done.size_bytes)),
        ("took", duration(done.seconds)),
    ]
    if done.skipped_count:
        lines.append(("left out", f"{count(done.skipped_count, 'page')} evicted meanwhile"))
    show_value(done, lines, output)


@session.command("import")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--over", is_flag=True, help="Evict what is in the way: old pages, or another identity's store.")
@yes_option
@output_option
@target_options
def import_(path: Path, over: bool, yes: bool, output: str, target: Target) -> None:
    """Read a file that export has written. Every byte is verified first; all of it is taken, or nothing.

    PATH is on the sidecar's file system.
    """
    if over:
        confirm("Evict what is in the way of the imported pages?", yes)
    with target.client() as client:
        done = follow("importing", client.import_(path.absolute(), over))
    lines = [
        ("store", done.identity),
        ("pages", f"{done.page_count:,} new, {done.already_stored_count:,} were there"),
        ("evicted", count(done.evicted_count, "page")),
        ("size", size(done.size_bytes)),
        ("took", duration(done.seconds)),
    ]
    show_value(done, lines, output)
