"""``rekindle plugin test``: the conformance kit, one line a check."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rekindle.cli.plugin_dirs import plugin_dir_flags, plugin_dirs

if TYPE_CHECKING:
    from rekindle.conformance.outcome import Outcome


@click.command()
@click.argument("plugin", metavar="NAME|DIR")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--check", "checks", multiple=True, metavar="CHECK", help="Only this one; may be given several times.")
@click.option("--python", type=click.Path(exists=True, dir_okay=False), help="The engine's interpreter. Default: ours.")
@plugin_dir_flags
def test(
    plugin: str,
    output: str,
    checks: tuple[str, ...],
    python: str | None,
    plugin_dir: str | None,
    config_file: Path | None,
) -> None:
    """Run the conformance kit against a plugin: installed (NAME), or in its folder (DIR).

    The engine is started, killed and started again some dozens of times, through the plugin's driver. Exits with 0 when
    no check failed, with 1 when one did.
    """
    from rekindle.conformance.outcome import Verdict
    from rekindle.conformance.registry import named
    from rekindle.conformance.run import run
    from rekindle.conformance.subject import find

    wanted = named(checks)
    subject = find(plugin, plugin_dirs(config_file, plugin_dir), python or sys.executable)
    outcomes = []
    for outcome in _shown(run(subject, wanted), output):
        outcomes.append(outcome)
    failed = [outcome for outcome in outcomes if outcome.verdict is Verdict.FAILED]
    if output == "json":
        told = {"plugin": subject.info.to_json(), "source": subject.source, "passed": not failed}
        click.echo(json.dumps({**told, "checks": [o.to_json() for o in outcomes]}, indent=2, ensure_ascii=False))
    else:
        passed = sum(outcome.verdict is Verdict.PASSED for outcome in outcomes)
        rest = len(outcomes) - passed - len(failed)
        click.echo(f"{passed} passed, {len(failed)} failed, {rest} not applicable")
    sys.exit(1 if failed else 0)


def _shown(outcomes: Iterator[Outcome], output: str) -> Iterator[Outcome]:
    """Each line as soon as it is known: the whole takes a minute."""
    for outcome in outcomes:
        if output == "text":
            lines = outcome.seen.splitlines() or [""]
            click.echo(f"{outcome.verdict.value:14}  {outcome.check:20}  {lines[0] or outcome.promise}")
            for line in lines[1:]:
                click.echo(f"{'':38}{line}")
        yield outcome
