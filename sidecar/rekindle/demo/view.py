"""The demo's picture: two timelines on one axis, and the figures below. And the same as JSON."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekindle.demo.run import Conversation, RunResult

WIDTH = 64
STREAMING, WAITING, DOWN, KILLED = "█", "▒", "·", "✗"


def print_results(console: Console, results: list[RunResult], kind: str) -> None:
    """The whole picture. `results` as from `run_demo`."""
    span = max(result.ended_at - result.begun_at for result in results)
    for result in results:
        title = "with Rekindle" if result.with_rekindle else "without"
        down = (
            f"killed at {result.killed_at - result.begun_at:.2f} s, up again at {result.up_at - result.begun_at:.2f} s"
        )
        console.print(f"\n[bold]{title}[/bold]  ({down})")
        for number, conversation in enumerate(result.conversations, 1):
            console.print(Text(f"  {number:>2} ").append_text(_row(result, conversation, span)))
    console.print(
        f"     0 s{'':{WIDTH - 10}}{span:5.2f} s\n"
        f"     {STREAMING} tokens arrive   {WAITING} waiting for the first   {KILLED} SIGKILL   {DOWN} engine down\n"
    )
    console.print(_table(results, kind))


def _row(result: RunResult, conversation: Conversation, span: float) -> Text:
    """One conversation: a character per slice of time."""
    row = Text()
    slice_s = span / WIDTH
    for column in range(WIDTH):
        start = result.begun_at + column * slice_s
        end = start + slice_s
        if start <= result.killed_at < end:
            row.append(KILLED, "bold red")
        elif result.killed_at < start < result.up_at and not _has_token(conversation, start, end):
            row.append(DOWN, "red")
        elif _has_token(conversation, start, end):
            row.append(STREAMING, "green")
        elif _is_waiting(conversation, start, end):
            row.append(WAITING, "yellow")
        elif any(leg.token_times and leg.token_times[0] <= start <= leg.token_times[-1] for leg in conversation.legs):
            row.append(STREAMING, "green")
        else:
            row.append(" ")
    return row


def _has_token(conversation: Conversation, start: float, end: float) -> bool:
    return any(start <= at < end for leg in conversation.legs for at in leg.token_times)


def _is_waiting(conversation: Conversation, start: float, end: float) -> bool:
    return any(leg.sent_at < end and leg.token_times and start < leg.token_times[0] for leg in conversation.legs)


def _table(results: list[RunResult], kind: str) -> Table:
    table = Table(title=f"{kind} engine, {len(results[0].conversations)} conversations", title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column("with Rekindle" if result.with_rekindle else "without", justify="right")
    rows = {
        "first token, cold (median)": [f"{_ms(r.cold_first_token_s())}" for r in results],
        "first token after the restart (median)": [f"{_ms(r.resume_first_token_s())}" for r in results],
        "pause the user saw (median)": [f"{_ms(r.pauses_s())}" for r in results],
        "  of it the engine's own start": [f"{r.engine_start_s * 1000:.0f} ms" for r in results],
        "prompt tokens computed again": [str(r.tokens_recomputed()) for r in results],
        "pages put back": [str(r.pages_restored) if r.with_rekindle else "–" for r in results],
        "every token as in an uninterrupted run": ["yes" if r.same_tokens else "NO" for r in results],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _ms(values: list[float]) -> str:
    return f"{median(values) * 1000:.0f} ms" if values else "–"


def to_json(results: list[RunResult], kind: str) -> dict[str, Any]:
    return {"engine": kind, "runs": [_run_json(result) for result in results]}


def _run_json(result: RunResult) -> dict[str, Any]:
    return {
        "with_rekindle": result.with_rekindle,
        "cold_first_token_s": result.cold_first_token_s(),
        "resume_first_token_s": result.resume_first_token_s(),
        "pauses_s": result.pauses_s(),
        "engine_start_s": result.engine_start_s,
        "salvage_s": result.salvage_s,
        "prompt_tokens_computed_again": result.tokens_recomputed(),
        "pages_restored": result.pages_restored,
        "tokens_restored": result.tokens_restored,
        "same_tokens": result.same_tokens,
        "conversations": [
            {
                "prompt_tokens": len(conversation.prompt),
                "answer_tokens": len(conversation.answer),
                "requests": [
                    {
                        "sent_s": leg.sent_at - result.begun_at,
                        "first_token_s": leg.first_token_s,
                        "tokens": len(leg.tokens),
                        "prompt_tokens": leg.prompt_tokens,
                        "cached_tokens": leg.cached_tokens,
                    }
                    for leg in conversation.legs
                ],
            }
            for conversation in result.conversations
        ],
    }
