"""Finding and loading adapters, and asking them without trusting them.

    1. entry points of the group `rekindle.backends` (the built-in plugins are found in no other way)
    2. the folders of each plugin directory, in the order given

Of two of one name the later one wins, and both are listed. A plugin that cannot be loaded fails alone. What an adapter
raises later is an answer only when it is one of our errors; anything else is logged, and counts as no answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from rekindle_plugins.contract.adapter import Adapter, Launch
from rekindle_plugins.contract.errors import ConfigError, ProtocolError, RekindleError
from rekindle_plugins.contract.identity import Identity, Mismatch

from rekindle.backends.folder import PluginFolder, plugin_folders

log = logging.getLogger("rekindle.backends")

GROUP = "rekindle.backends"
T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """One plugin that was found, loaded or not."""

    name: str
    source: str
    """Where it is from: a distribution and its version, or a folder."""
    adapter: Adapter | None = None
    problem: str = ""
    """Why it is not there: its error, or which other one of this name is used instead."""
    folder: PluginFolder | None = None
    entry_point: EntryPoint | None = None


@dataclass
class Backends:
    """The loaded adapters of one process. `close` finalizes them."""

    found: tuple[Found, ...] = ()
    _by_name: dict[str, Adapter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name = {entry.name: entry.adapter for entry in self.found if entry.adapter is not None}

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        return tuple(self._by_name.values())

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of the loaded plugins that have one: what an engine needs on its path to find their shims."""
        return tuple(entry.folder.path for entry in self.found if entry.folder and entry.adapter)

    def get(self, name: str) -> Adapter | None:
        return self._by_name.get(name)

    def named(self, name: str) -> Adapter:
        """Raises ConfigError, with what is known of that plugin, when it is not loaded."""
        adapter = self.get(name)
        if adapter is not None:
            return adapter
        problems = [entry.problem for entry in self.found if entry.name == name and entry.problem]
        known = ", ".join(sorted(self._by_name)) or "none"
        raise ConfigError("use", f"plugin {name}", problems[-1] if problems else "there is none", f"loaded: {known}")

    def for_launch(self, launch: Launch) -> Adapter | None:
        """The adapter whose engine a launch starts; None where nobody knows it.

        Raises ConfigError when several do: which one is then for a person to say.
        """
        mine = [a for a in self.adapters if self._ask(a, False, a.recognises, launch)]
        if len(mine) > 1:
            names = " and ".join(adapter.info.name for adapter in mine)
            raise ConfigError("tell", "the engine", f"the command looks like {names}", "name one with --backend")
        return mine[0] if mine else None

    def admit(self, name: str, engine: Identity, engine_version: str) -> None:
        """An engine attaches. Raises the adapter's RekindleError when it is not to be served."""
        adapter = self.get(name)
        if adapter is not None:
            self._ask(adapter, None, adapter.attach, engine, engine_version)

    def judge(self, name: str, engine: Identity, stored: Identity) -> Sequence[Mismatch]:
        """Why pages of `stored` may not come back. Never less than the fields that differ."""
        plain: Sequence[Mismatch] = engine.mismatches(stored)
        adapter = self.get(name)
        if adapter is None:
            return plain

        def judge() -> list[Mismatch]:
            found = list(adapter.judge(engine, stored))
            if not all(isinstance(mismatch, Mismatch) for mismatch in found):
                raise TypeError("its answer is no list of mismatches")
            return found

        try:
            found = self._ask(adapter, list[Mismatch](), judge)
        except RekindleError as error:  # about pages of another identity: no reason to refuse the engine that asks
            log.warning("event=adapter_failed backend=%s question=judge error=%s", name, error)
            found = []
        told = {mismatch.field for mismatch in found}
        return [*found, *(mismatch for mismatch in plain if mismatch.field not in told)]

    def close(self) -> None:
        for adapter in self.adapters:
            self._ask(adapter, None, adapter.finalize)
        self._by_name.clear()

    def _ask(self, adapter: Adapter, default: T, question: Callable[..., T], *args: Any) -> T:
        try:
            return question(*args)
        except RekindleError:
            raise
        except (Exception, SystemExit):
            name = adapter.info.name
            log.exception("event=adapter_failed backend=%s question=%s", name, getattr(question, "__name__", "?"))
            return default


def discover(plugin_dirs: Sequence[Path] = ()) -> Backends:
    """Finds all plugins and loads those that count. Raises ConfigError for a plugin directory that cannot be read."""
    found = [_of_entry_point(entry) for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name)]
    for directory in plugin_dirs:
        found += [_of_folder(path) for path in plugin_folders(directory)]
    last = {entry.name: index for index, entry in enumerate(found)}
    loaded = [
        _load(entry) if last[entry.name] == index else _shadowed(entry, found[last[entry.name]])
        for index, entry in enumerate(found)
    ]
    return Backends(tuple(loaded))


def load_folder(path: Path) -> Found:
    """One plugin folder by itself, loaded or with the reason why not."""
    return _load(_of_folder(path))


def _of_entry_point(entry: EntryPoint) -> Found:
    distribution = entry.dist
    source = f"{distribution.name} {distribution.version}" if distribution is not None else "an unknown distribution"
    return Found(entry.name, source, entry_point=entry)


def _of_folder(path: Path) -> Found:
    try:
        folder = PluginFolder.read(path)
    except RekindleError as error:
        return Found(path.name, str(path), problem=str(error))
    return Found(folder.name, str(path), folder=folder)


def _shadowed(entry: Found, winner: Found) -> Found:
    problem = f"another one of this name is used: {winner.source}"
    log.warning("event=plugin_shadowed backend=%s source=%r by=%r", entry.name, entry.source, winner.source)
    return replace(entry, problem=entry.problem or problem)


def _load(entry: Found) -> Found:
    """Whatever a plugin does wrong is told of it, and of nothing else."""
    if entry.problem:
        log.warning("event=plugin_not_loaded backend=%s error=%s", entry.name, entry.problem)
        return entry
    try:
        return replace(entry, adapter=_make(entry))
    except (Exception, SystemExit) as error:
        problem = str(error) if isinstance(error, RekindleError) else f"{type(error).__name__}: {error}"
        log.warning("event=plugin_not_loaded backend=%s error=%s", entry.name, problem)
        return replace(entry, problem=problem)


def _make(entry: Found) -> Adapter:
    kind = entry.folder.load(entry.folder.adapter) if entry.folder else entry.entry_point.load()  # type: ignore[union-attr]
    adapter = kind()
    if not isinstance(adapter, Adapter):
        raise ProtocolError(
            "load", f"plugin {entry.name}", f"{kind!r:.80} is no Adapter", "derive from contract.Adapter"
        )
    adapter.info.check("the sidecar")
    if adapter.info.name != entry.name:
        problem = f"its adapter is called {adapter.info.name}"
        raise ProtocolError("load", f"plugin {entry.name}", problem, "use one name in both places")
    adapter.initialize()
    return adapter
