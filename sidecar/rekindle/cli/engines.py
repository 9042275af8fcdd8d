"""``rekindle engine``: the engines that are attached."""

from __future__ import annotations

import click

from rekindle.cli.output import Column, duration, output_option, show_rows
from rekindle.cli.target import Target, target_options

COLUMNS = (
    Column("engine", lambda e: f"{e.backend} {e.engine_version}"),
    Column("instance", lambda e: e.instance[:12]),
    Column("state", lambda e: e.state),
    Column("ranks", lambda e: f"{e.ranks_attached}/{e.world_size}", is_number=True),
    Column("attached", lambda e: duration(e.attached_s), is_number=True),
    Column("live", lambda e: f"{e.pages.live:,}", is_number=True),
    Column("checkpointed", lambda e: f"{e.pages.checkpointed:,}", is_number=True),
    Column("pending", lambda e: f"{e.pages.pending:,}", is_number=True),
    Column("restored", lambda e: f"{e.pages.restored:,}", is_number=True),
    Column("requests", lambda e: f"{e.outstanding:,}", is_number=True),
    Column("store", lambda e: e.identity[:12], is_wide=True),
    Column("plugin", lambda e: f"{e.plugin_version} (contract {e.api_version})", is_wide=True),
    Column("capabilities", lambda e: " ".join(e.capabilities), is_wide=True),
    Column("note", lambda e: e.note, is_wide=True),
)


@click.group()
def engine() -> None:
    """The engines that are attached, and those that are being let go of."""


@engine.command("list")
@output_option
@target_options
def list_(output: str, target: Target) -> None:
    """List engines."""
    with target.client() as client:
        show_rows(client.engines(), COLUMNS, output, "no engine is attached")
