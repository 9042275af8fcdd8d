"""`rekindle inject`, `uninject` and `diff`: manifests in, manifests out, a report on stderr."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rekindle_plugins.contract.errors import ConfigError

if TYPE_CHECKING:
    from rekindle.backends import Backends
    from rekindle.inject import Options, Rewritten

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
SUFFIXES = (".yaml", ".yml", ".json")
IMAGE = "rekindle-sidecar"


@dataclass(frozen=True)
class Source:
    """One manifest: a file, or standard input (no path)."""

    name: str
    path: Path | None
    text: str


def _where(command: Decorated) -> Decorated:
    """Which manifests, and where to."""
    help_text = "Manifests: a file, a folder (searched through), or - for standard input."
    command = click.option("-f", "--filename", "filenames", multiple=True, default=("-",), help=help_text)(command)
    path_help = "Where objects of another kind have their pod template, such as spec.worker.template ([] for each)."
    return click.option("--template-path", metavar="PATH", help=path_help)(command)


def injection_flags(command: Decorated) -> Decorated:
    """What to add."""
    for option in (
        click.option("--backend", default="auto", show_default=True, help="The engine's plugin."),
        click.option("--container", help="The engine's container, where it cannot be told."),
        click.option(
            "--gpu-mode",
            type=click.Choice(["auto", "dra", "env", "none"]),
            default="auto",
            show_default=True,
            help="How the sidecar sees the engine's GPUs. auto: env where it asks for some.",
        ),
        click.option(
            "--proxy", is_flag=True, help="Put the stream proxy before the engine's port; the engine moves to another."
        ),
        click.option(
            "--engine-port", type=click.IntRange(1, 65535), help="Where the engine moves to.  [default: a free one]"
        ),
        click.option(
            "--http-port",
            type=click.IntRange(1, 65535),
            help="Where the sidecar serves probes and metrics.  [default: 9470]",
        ),
        click.option("--store-size", default="8Gi", show_default=True, help="Node memory for checkpointed pages."),
        click.option("--engine-uid", type=click.IntRange(min=0), help="The engine's user, where no manifest says it."),
        click.option("--image", help=f"The sidecar's image.  [default: {IMAGE}:VERSION, ours]"),
        click.option("--plugin-dir", default="", help="Directories of plugins, ':' between them."),
    ):
        command = option(command)
    return command


@click.command()
@_where
@injection_flags
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Instead of standard output.")
@click.option("--dry-run", is_flag=True, help="Report only.")
def inject(output: Path | None, dry_run: bool, **given: Any) -> None:
    """Add the sidecar to the engine's pods in manifests.

    Writes YAML to standard output and a report to standard error. What is injected already is un-injected first, so
    doing it twice changes nothing. Other objects pass through untouched. Exit code 5 when nothing could be injected.
    """
    texts, done = _inject_all(given)
    if not dry_run:
        _write("".join(texts), output)
    _end(done)


@click.command()
@_where
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Instead of standard output.")
def uninject(output: Path | None, filenames: Sequence[str], template_path: str | None) -> None:
    """Take the sidecar out again: what comes out means what once went in."""
    from rekindle.inject import uninject as take_back
    from rekindle.inject.documents import Stream

    texts, done = [], []
    for source in _read(filenames):
        stream = Stream.read(source.name, source.text)
        done += take_back(stream, _path(template_path))
        texts.append(stream.write())
    _write("".join(_joined(texts)), output)
    _report(done)


@click.command()
@_where
@injection_flags
def diff(**given: Any) -> None:
    """Show what `inject` would change, as a unified diff."""
    sources = list(_read(given["filenames"]))
    texts, done = _inject_all(given, sources)
    for source, text in zip(sources, texts, strict=True):
        before, after = (content.splitlines(keepends=True) for content in (source.text, text))
        lines = difflib.unified_diff(before, after, source.name, f"{source.name} injected")
        click.echo("".join(lines), nl=False)
    _end(done)


def options_from(given: Mapping[str, Any]) -> tuple[Options, Backends]:
    """What `injection_flags` were given, and the plugins. Raises ConfigError."""
    from rekindle.backends import discover
    from rekindle.config import parse_size
    from rekindle.inject import GpuMode, Options

    try:
        store_size = parse_size(given["store_size"])
    except ValueError as error:
        raise ConfigError("read", "flag --store-size", f"{given['store_size']!r} {error}") from None
    version = metadata.version("rekindle")
    options = Options(
        image=given["image"] or f"{IMAGE}:{version}",
        version=version,
        backend=None if given["backend"] == "auto" else given["backend"],
        container=given["container"],
        gpu_mode=GpuMode(given["gpu_mode"]),
        store_size_bytes=store_size,
        engine_uid=given["engine_uid"],
        proxy=given["proxy"],
        engine_port=given["engine_port"],
        http_port=given["http_port"],
        template_path=_path(given.get("template_path")),
    )
    return options, discover([Path(part) for part in given["plugin_dir"].split(":") if part])


def _inject_all(given: Mapping[str, Any], sources: Sequence[Source] | None = None) -> tuple[list[str], list[Rewritten]]:
    from rekindle.inject import inject as add
    from rekindle.inject import pod_count
    from rekindle.inject.documents import Stream

    options, backends = options_from(given)
    texts: list[str] = []
    done: list[Rewritten] = []
    read = sources if sources is not None else _read(given["filenames"])
    streams = [Stream.read(source.name, source.text) for source in read]
    is_only_pod = sum(pod_count(stream, options.template_path) for stream in streams) == 1
    for stream in streams:
        done += add(stream, options, backends, is_only_pod)
        texts.append(stream.write())
    return (_joined(texts) if sources is None else texts), done


def _read(filenames: Sequence[str]) -> Sequence[Source]:
    found = []
    for name in filenames:
        if name == "-":
            found.append(Source("standard input", None, _text("standard input", sys.stdin.buffer.read)))
            continue
        path = Path(name)
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES) if path.is_dir() else [path]
        for file in files:
            found.append(Source(str(file), file, _text(str(file), file.read_bytes)))
    return found


def _text(name: str, read: Callable[[], bytes]) -> str:
    """Its line ends and byte order mark are its own, and stay."""
    try:
        return read().decode("utf-8")
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise ConfigError("read", name, problem, "check -f") from None


def _joined(texts: Sequence[str]) -> list[str]:
    """Files one after the other are one stream, with a separator between them."""
    from rekindle.inject.documents import BYTE_ORDER_MARK

    joined: list[str] = []
    for text in texts:
        text = text.removeprefix(BYTE_ORDER_MARK) if joined else text
        if joined and not text.startswith("---"):
            joined.append("---\n" if joined[-1].endswith("\n") else "\n---\n")
        joined.append(text)
    return joined


def _write(text: str, output: Path | None) -> None:
    """All of it or nothing, where that is possible: not into a pipe or a device."""
    from rekindle.cli.whole_file import write_whole

    if output is None:
        click.echo(text.encode(), nl=False)
        return
    try:
        write_whole(output, text.encode())
    except OSError as error:
        raise ConfigError("write", str(output), error.strerror or str(error), "check -o") from None


def _report(done: Sequence[Rewritten]) -> None:
    for entry in done:
        click.echo(f"{entry.where}: {entry.outcome.value}", err=True)
        for note in entry.notes:
            click.echo(f"  {note}", err=True)


def _end(done: Sequence[Rewritten]) -> None:
    from rekindle.admin.failure import Exit
    from rekindle.inject import Outcome

    _report(done)
    counts = {outcome: sum(entry.outcome is outcome for entry in done) for outcome in Outcome}
    click.echo(", ".join(f"{counts[o]} {o.value}" for o in Outcome if counts[o]) or "no pods were found", err=True)
    if not counts[Outcome.INJECTED]:
        sys.exit(Exit.REFUSED)


def _path(text: str | None) -> tuple[str, ...] | None:
    return tuple(part for part in text.replace("[]", ".[]").split(".") if part) if text else None
