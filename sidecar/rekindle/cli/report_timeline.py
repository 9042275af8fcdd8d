"""The timeline of a recovery as inline SVG: a row for each phase, on a linear axis. Pure; colours are CSS classes.

0           gutter          plot                                            width
|  name     |▒▒▒▒|██████████| 350 ms
|           |----|-----|-----|-----|   ticks
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from rekindle.cli.report_phases import Phase, took

WIDTH = 960
_GUTTER = 110
_RIGHT = 30
_ROW = 30
_BAR = 16
_TOP = 26
_AXIS = 30
_LETTER = 6.4
"""About the width of a letter of a bar's label."""
_MOST_TICKS = 8


def timeline(phases: Sequence[Phase], marks: Sequence[tuple[float, str, str]], title: str) -> str:
    """An ``<svg>``. ``marks`` are vertical lines: (second, class, text). A phase that is not over runs to the edge."""
    ends = [phase.end_s for phase in phases if phase.end_s is not None] + [at for at, _, _ in marks]
    start_s = min([0.0, *(phase.start_s for phase in phases)])
    end_s = max([*ends, *(phase.start_s for phase in phases), start_s + 1e-4])
    if any(phase.end_s is None for phase in phases):
        end_s += 0.15 * (end_s - start_s)
    scale = (WIDTH - _GUTTER - _RIGHT) / (end_s - start_s)

    def x(at_s: float) -> float:
        return _GUTTER + (at_s - start_s) * scale

    bottom = _TOP + _ROW * len(phases)
    parts = [
        f'<svg class="timeline" viewBox="0 0 {WIDTH} {bottom + _AXIS}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for tick_s in ticks(start_s, end_s):
        parts.append(f'<line class="tick" x1="{x(tick_s):.1f}" x2="{x(tick_s):.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="axis" x="{x(tick_s):.1f}" y="{bottom + 18}">{axis_text(tick_s)}</text>')
    for number, phase in enumerate(phases):
        parts += _row(phase, _TOP + number * _ROW, x(phase.start_s), x(end_s if phase.end_s is None else phase.end_s))
    for number, (at_s, kind, text) in enumerate(marks):
        parts += _mark(x(at_s), bottom, kind, text, is_last=number == len(marks) - 1)
    parts.append("</svg>")
    return "\n".join(parts)


def _row(phase: Phase, y: float, left: float, right: float) -> list[str]:
    top = y + (_ROW - _BAR) / 2
    middle = y + _ROW / 2 + 4
    width = max(2.0, right - left)
    label = took(phase.took_s, "not over yet")
    state = " open" if phase.end_s is None else ""
    room = len(label) * _LETTER + 12
    if left + width + room <= WIDTH - 4:
        where = f'class="value" x="{left + width + 6:.1f}"'
    elif width >= room:
        where = f'class="value inside{state}" x="{left + width - 6:.1f}"'
    else:
        where = f'class="value end" x="{left - 6:.1f}"'
    return [
        f'<text class="name" x="{_GUTTER - 10}" y="{middle:.1f}">{escape(phase.name)}</text>',
        f'<rect class="bar {phase.kind}{state}" rx="3"'
        f' x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{_BAR}">'
        f"<title>{escape(phase.name)}: {escape(label)}. {escape(phase.text)}</title></rect>",
        f'<text {where} y="{middle:.1f}">{escape(label)}</text>',
    ]


def _mark(at: float, bottom: float, kind: str, text: str, is_last: bool) -> list[str]:
    """The last mark's text stands to the left of its line, so that it has room; a first one's to the right."""
    room = len(text) * _LETTER
    to_left = is_last and at + room > WIDTH - 8
    anchor = "end" if to_left else "start"
    return [
        f'<line class="mark {kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 8}" y2="{bottom + 4}"/>',
        f'<text class="mark-text {kind}" text-anchor="{anchor}" x="{at:.1f}" y="{_TOP - 12}">{escape(text)}</text>',
    ]


def ticks(start_s: float, end_s: float) -> list[float]:
    """At most ``_MOST_TICKS`` round seconds of the axis: steps of 1, 2 or 5 times a power of ten."""
    rough = (end_s - start_s) / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(start_s / step - 1e-9)
    last = math.floor(end_s / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def axis_text(seconds: float) -> str:
    """``0``, ``−50 ms``, ``2.5 s``, ``3 min``, ``2 h``: as many digits as the steps need."""
    if abs(seconds) < 1e-9:
        return "0"
    sign, size = ("−" if seconds < 0 else ""), abs(seconds)
    if size < 1e-3:
        return f"{sign}{size * 1e6:.0f} µs"
    if size < 1:
        return f"{sign}{size * 1e3:.4g} ms"
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min")):
        if size < limit_s:
            return f"{sign}{size / unit_s:.4g} {unit}"
    return f"{sign}{size / 3600:.4g} h"
