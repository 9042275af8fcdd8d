"""`rekindle demo`: see an engine being killed in the middle of its answers, with Rekindle and without."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
from rekindle_plugins.contract.errors import RekindleError


@click.command()
@click.option("--engine", type=click.Choice(["nano", "vllm"]), default="nano", show_default=True)
@click.option("--sessions", type=click.IntRange(1, 64), default=4, show_default=True, help="Conversations at once.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    help="vllm: the model's folder.  [default: a small one with random weights, made for the occasion]",
)
@click.option("--engine-python", envvar="VLLM_PYTHON", help="vllm: interpreter of an environment with vLLM.")
def demo(engine: str, sessions: int, as_json: bool, model: Path | None, engine_python: str | None) -> None:
    """Stream conversations, SIGKILL the engine in the middle, restart it, go on: with Rekindle and without."""
    from rich.console import Console

    from rekindle.demo.engines import make_small_model, nano_kind, vllm_kind
    from rekindle.demo.run import run_demo
    from rekindle.demo.view import print_results, to_json

    if not as_json:
        click.echo(
            f"Two runs of {sessions} conversations on the {engine} engine; the engine is killed in each.", err=True
        )
    with tempfile.TemporaryDirectory(prefix="rekindle-demo-") as folder:
        if engine == "nano":
            kind = nano_kind()
        else:
            python = engine_python or ""
            kind = vllm_kind(python, model.absolute() if model else make_small_model(python, Path(folder) / "model"))
        results = run_demo(kind, sessions)
    if as_json:
        click.echo(json.dumps(to_json(results, engine), indent=2))
    else:
        print_results(Console(width=max(100, Console().width), legacy_windows=False), results, engine)
    if not all(result.same_tokens for result in results):
        raise RekindleError("compare", "the answers", "a token differs from the uninterrupted run")
