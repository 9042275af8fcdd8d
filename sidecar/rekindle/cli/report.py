"""``rekindle report``: one recovery as an HTML page with a timeline, as JSON, or as a table.

The last one is asked of the sidecar; others, and all of them where no sidecar answers, are read from the files that it
left beside its socket.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
from rekindle_plugins.contract.errors import ConfigError, RekindleError

from rekindle.cli.reach import admin_socket, reach_flags
from rekindle.cli.times import Seconds
from rekindle.lifecycle.status import RecoveryReport


@click.command()
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("-o", "format_", type=click.Choice(["html", "json", "table"]), default="html", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False), help="A file, or - for the standard output.")
@reach_flags
@click.option("--timeout", "timeout_s", type=Seconds(0.1), default="5s", show_default=True, help="For an answer.")
def report(
    number: int | None, format_: str, output: str | None, socket: Path | None, run_dir: Path | None, timeout_s: float
) -> None:
    """Draw a recovery: the last one, or the one with this NUMBER.

    The page holds all it needs, and loads nothing. On a terminal it goes to rekindle-recovery-NUMBER.html unless
    --output says otherwise; everything else goes to the standard output.
    """
    found = find_report(number, admin_socket(socket, run_dir), timeout_s)
    if output is None and format_ == "html" and sys.stdout.isatty():
        output = f"rekindle-recovery-{found.number}.html"
    if output in (None, "-"):
        _print(found, format_)
    else:
        _write(Path(str(output)), _text(found, format_))
        click.echo(f"wrote {output}", err=True)


def find_report(number: int | None, socket: Path, timeout_s: float) -> RecoveryReport:
    """The report with this number, or the newest.

    Raises:
        NotFoundError: there is none of this number, or none at all.
    """
    from rekindle.admin.client import AdminClient
    from rekindle.keeper.refusals import NotFoundError
    from rekindle.recovery_files import read_reports

    known = {report.number: report for report in read_reports(socket.parent)}
    problem = ""
    if number not in known:  # a report that lies there is what the sidecar would say
        try:
            with AdminClient(socket, timeout_s) as client:
                last = client.status().last_recovery
        except RekindleError as error:
            problem = f", and the sidecar does not answer: {error.problem}"
        else:
            known |= {last.number: last} if last is not None else {}
    if not known:
        hint = "a report is made when an engine dies, or finds its pages after a restart"
        raise NotFoundError("find", "a recovery report", f"there is none in {socket.parent}{problem}", hint)
    if number is not None and number not in known:
        numbers = ", ".join(str(each) for each in sorted(known))
        raise NotFoundError("find", f"recovery report {number}", f"there is none{problem}", f"there are: {numbers}")
    return known[number if number is not None else max(known)]


def _text(found: RecoveryReport, format_: str) -> str:
    if format_ == "html":
        from rekindle.cli.report_page import page

        return page(found)
    if format_ == "json":
        return json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n"
    from rekindle.cli.report_table import table_text

    return table_text(found)


def _print(found: RecoveryReport, format_: str) -> None:
    if format_ == "table":
        from rekindle.cli.report_table import show

        show(found, sys.stdout)
    else:
        click.echo(_text(found, format_), nl=False)


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError("write", str(path), error.strerror or str(error), "choose another --output") from None
