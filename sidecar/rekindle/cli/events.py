"""``rekindle events``: what happens, as it happens."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from rekindle.cli.output import FORMATS, plain
from rekindle.cli.target import Target, target_options


@click.command()
@click.option("--last", "backlog", type=click.IntRange(0, 256), default=0, help="First the last so many.")
@click.option("--no-follow", is_flag=True, help="Only those, and end.")
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print.")
@target_options
def events(backlog: int, no_follow: bool, output: str, target: Target) -> None:
    """Watch what happens, until Ctrl-C or the sidecar's end. json prints as jsonl does: a stream has no end.

    A reader that is too slow is told how many events it has missed.
    """
    with target.client() as client:
        for event, lost in client.events(backlog, follow=not no_follow):
            if lost:
                click.echo(f"{lost:,} events were lost: this reader is too slow", err=True)
            _show(event, output)
            sys.stdout.flush()


def _show(event: Any, output: str) -> None:
    if output in ("json", "jsonl"):
        import json

        click.echo(json.dumps(plain(event), ensure_ascii=False))
    elif output == "yaml":
        from ruamel.yaml import YAML

        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.explicit_start = True
        yaml.dump(plain(event), sys.stdout)
    else:
        moment = time.strftime("%H:%M:%SZ", time.gmtime(event.time_unix))
        fields = " ".join(f"{name}={text}" for name, text in sorted(event.fields.items()))
        number = f"{event.number:>6} " if output == "wide" else ""
        click.echo(f"{number}{moment} {event.level:<7} {event.name:<20} {fields}".rstrip())
