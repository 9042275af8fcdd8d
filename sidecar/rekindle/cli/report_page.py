"""A recovery report as one HTML page that holds all it needs: no scripts, nothing from elsewhere, light and dark.

Every text of a peer's is escaped; the page also forbids itself, by its policy, to load or to run anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from rekindle.cli.report_phases import Phase, is_over, phases, took
from rekindle.cli.report_style import STYLE
from rekindle.cli.report_table import moment
from rekindle.cli.report_timeline import timeline
from rekindle.lifecycle.status import RecoveryReport

_CLOSE_UP = 0.2
"""The salvage gets a picture of its own where it takes less than this share of the whole."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: RecoveryReport) -> str:
    title = f"Rekindle: recovery #{report.number}"
    body = "\n".join([_head(report), _tiles(report), _timelines(report), _pages(report), _misfits(report)])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _head(report: RecoveryReport) -> str:
    state = '<span class="badge over">finished</span>' if is_over(report) else '<span class="badge">under way</span>'
    began = f"<time>{moment(report.began_unix)}</time>" if report.began_unix is not None else ""
    facts = [("identity", report.identity), ("died", _died(report)), ("next engine", report.started_instance or "–")]
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<header><h1>Recovery #{report.number} {state}</h1>{began}<dl>{listed}</dl></header>"


def _died(report: RecoveryReport) -> str:
    if report.died_instance is None:
        return "– (the sidecar was started anew, and does not know)"
    return f"{report.died_instance} ({report.reason})" if report.reason else report.died_instance


def _tiles(report: RecoveryReport) -> str:
    tiles = [
        (f"{report.pages_restored:,}" if is_over(report) else "–", "pages put back", "before the engine served"),
        (f"{report.tokens_restored:,}" if is_over(report) else "–", "tokens saved", "not computed again"),
        (took(report.warm_s, "–"), "until warm", "from the death noticed to the pages back"),
        (took(report.release_s, "–"), "memory held", "of the dead engine, after its death"),
        (f"{report.pages_unsaved:,}", "pages lost", "committed, and not saved in time"),
    ]
    if report.died_instance is None:
        tiles = [*tiles[:2], (took(report.warm_s, "–"), "until warm", "from the engine's attachment to the pages back")]
    cells = "".join(f"<div><b>{value}</b><span>{name}</span><small>{text}</small></div>" for value, name, text in tiles)
    return f'<section class="tiles">{cells}</section>'


def _timelines(report: RecoveryReport) -> str:
    rows = phases(report)
    if not rows:
        return ""
    died = report.died_instance is not None
    marks = [(0.0, "death", "death noticed") if died else (0.0, "attach", "engine attached")]
    if report.warm_s is not None:
        marks.append((report.warm_s, "warm", "finished"))
    drawn = [f"<h2>Timeline</h2>{_picture(rows, marks, 'The phases of the recovery')}"]
    close = [row for row in rows if row.kind in ("salvage", "release")]
    whole_s = max([row.end_s or row.start_s for row in rows])
    if report.release_s is not None and report.release_s < _CLOSE_UP * whole_s:
        title = f"The first {took(report.release_s, '')}"
        ends = [(0.0, "death", "death noticed"), (report.release_s, "warm", "memory let go")]
        drawn.append(f"<h3>{title}</h3>{_picture(close, ends, title)}")
    explained = "".join(f'<dt class="{row.kind}">{row.name}</dt><dd>{escape(row.text)}</dd>' for row in rows)
    return f'<section>{"".join(drawn)}<dl class="legend">{explained}</dl></section>'


def _picture(rows: list[Phase], marks: list[tuple[float, str, str]], title: str) -> str:
    """In a box that scrolls where the window is too narrow for its text."""
    return f'<div class="wide">{timeline(rows, marks, title)}</div>'


def _pages(report: RecoveryReport) -> str:
    return f"<section><h2>Pages</h2><table>{''.join(_page_rows(report))}</table></section>"


def _page_rows(report: RecoveryReport) -> Iterator[str]:
    rejected = sum(report.pages_rejected.values())
    most = max(report.pages_committed, report.pages_restored, rejected, 1)
    rows = [("restored", "put back", report.pages_restored, "restore")]
    if report.died_instance is not None:
        rows = [
            ("committed", "by the engine that died", report.pages_committed, "attach"),
            ("salvaged", "read out of its memory after its death", report.pages_salvaged, "salvage"),
            ("unsaved", "committed, and lost", report.pages_unsaved, "down"),
            *rows,
        ]
    by_number = sorted(report.pages_rejected.items(), key=lambda item: (-item[1], item[0]))
    rows += [("rejected", reason, count, "down") for reason, count in by_number]
    if not by_number:
        rows.append(("rejected", "for any reason", 0, "down"))
    for name, text, count, kind in rows:
        share = 100 * min(1.0, count / most)
        yield (
            f'<tr><th>{name}</th><td>{escape(text)}</td><td class="number">{count:,}</td>'
            f'<td class="share"><i class="{kind}" style="width:{share:.1f}%"></i></td></tr>'
        )


def _misfits(report: RecoveryReport) -> str:
    if not report.mismatches:
        return ""
    listed = "".join(f"<li>{escape(text)}</li>" for text in report.mismatches)
    text = "Pages of another identity lie in the store. They were not used, because these fields differ:"
    return f"<section><h2>What does not fit</h2><p>{text}</p><ul>{listed}</ul></section>"
