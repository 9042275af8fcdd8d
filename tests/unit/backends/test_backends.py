"""Plugins are found by entry point and by folder; one that cannot be loaded fails alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rekindle.backends import discover
from rekindle_plugins.contract import ConfigError, Identity, Launch, Mismatch
from rekindle_plugins.contract.identity import REQUIRED

ADAPTER = """
from rekindle_plugins.contract import Adapter, PluginInfo, UnavailableError, Wired
from rekindle_plugins.contract.identity import Mismatch

class Mine(Adapter):
    info = PluginInfo({name!r}, "1", "an engine", api_version={api!r})

    def initialize(self):
        {initialize}

    def recognises(self, launch):
        return "my-engine" in launch.words

    def wire(self, launch):
        return Wired(launch.with_args("--shim"))

    def judge(self, engine, stored):
        {judge}
"""


@pytest.fixture
def plugin_dir(tmp_path: Path) -> Iterator[Path]:
    """What the tests import from it is forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def make(
    plugin_dir: Path,
    folder: str,
    name: str = "mine",
    *,
    toml: str = "",
    api: tuple[int, int] = (1, 0),
    initialize: str = "pass",
    judge: str = "return []",
) -> Path:
    home = plugin_dir / folder
    package = home / f"{folder}_code"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "adapter.py").write_text(ADAPTER.format(name=name, api=api, initialize=initialize, judge=judge))
    (home / "plugin.toml").write_text(toml or f'name = "{name}"\nadapter = "{folder}_code.adapter:Mine"\n')
    return home


def identity(**fields: str) -> Identity:
    return Identity.of({**dict.fromkeys(REQUIRED, "x"), **fields})


def test_the_built_in_plugins_come_by_entry_point_like_any_other() -> None:
    backends = discover()
    assert {"nano", "vllm"} <= {adapter.info.name for adapter in backends.adapters}
    assert all(entry.source.startswith("rekindle ") for entry in backends.found if entry.name in ("nano", "vllm"))


def test_a_folder_is_a_plugin(plugin_dir: Path) -> None:
    home = make(plugin_dir, "one")
    backends = discover([plugin_dir])
    adapter = backends.for_launch(Launch(("my-engine",)))
    assert adapter is not None
    assert adapter.wire(Launch(("my-engine",))).launch.words == ("my-engine", "--shim")
    assert backends.folders == (home,)


def test_of_two_of_one_name_the_later_one_wins_and_both_are_listed(plugin_dir: Path) -> None:
    make(plugin_dir, "one")
    make(plugin_dir, "two")
    first, second = [entry for entry in discover([plugin_dir]).found if entry.name == "mine"]
    assert first.adapter is None
    assert str(plugin_dir / "two") in first.problem
    assert second.adapter is not None


def test_a_folder_takes_the_place_of_a_built_in_plugin(plugin_dir: Path) -> None:
    make(plugin_dir, "one", "nano")
    backends = discover([plugin_dir])
    assert backends.named("nano").info.engine == "an engine"
    assert [bool(entry.adapter) for entry in backends.found if entry.name == "nano"] == [False, True]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"toml": "name = 7"}, "not a text"),
        ({"toml": 'name = "mine"\nadaptor = "x:Y"'}, "did you mean adapter"),
        ({"toml": 'name = "mine"'}, "name and adapter are needed"),
        ({"toml": "name ="}, "not TOML"),
        ({"toml": 'name = "mine"\nadapter = "one_code.adapter"'}, "not module:attribute"),
        ({"toml": 'name = "mine"\nadapter = "one_code.adapter:Other"'}, "Other"),
        ({"toml": 'name = "mine"\nadapter = "json:JSONDecoder"'}, "is there already"),
        ({"toml": 'name = "other"\nadapter = "one_code.adapter:Mine"'}, "its adapter is called mine"),
        ({"initialize": "raise UnavailableError('start', 'it', 'its licence is missing')"}, "its licence is missing"),
        ({"initialize": "1 / 0"}, "ZeroDivisionError"),
        ({"initialize": "raise SystemExit(3)"}, "SystemExit: 3"),
        ({"api": (1, 7)}, "written for contract 1.7, the sidecar speaks 1.1"),
        ({"api": (2, 0)}, "written for contract 2.0, the sidecar speaks 1.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_plugin_that_cannot_be_loaded_fails_alone_and_says_why(
    plugin_dir: Path, changes: dict[str, str], problem: str
) -> None:
    make(plugin_dir, "one", **changes)  # type: ignore[arg-type]
    backends = discover([plugin_dir])
    entry = backends.found[-1]
    assert entry.adapter is None
    assert problem in entry.problem
    assert backends.named("nano") is not None
    with pytest.raises(ConfigError):
        backends.named(entry.name)


def test_a_plugin_directory_that_is_not_there_is_a_mistake_of_the_operator(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plugin directory"):
        discover([tmp_path / "none"])


def test_a_command_that_two_plugins_know_is_for_a_person_to_tell(plugin_dir: Path) -> None:
    make(plugin_dir, "one", "mine")
    make(plugin_dir, "two", "yours")
    with pytest.raises(ConfigError, match="mine and yours"):
        discover([plugin_dir]).for_launch(Launch(("my-engine",)))


@pytest.mark.parametrize(
    "judge",
    [
        "return []",
        "1 / 0",
        "return [Mismatch('model', 'a', 'b')]",
        "return None",
        "return ['the weights differ']",
        "raise SystemExit(3)",
        "raise UnavailableError('judge', 'it', 'pages of long ago')",
    ],
)
def test_an_adapter_cannot_take_a_mismatch_away(plugin_dir: Path, judge: str) -> None:
    make(plugin_dir, "one", judge=judge)
    found = discover([plugin_dir]).judge("mine", identity(dtype="bf16"), identity(dtype="fp32"))
    assert Mismatch("dtype", "fp32", "bf16") in found
    assert all(isinstance(mismatch, Mismatch) for mismatch in found)


def test_an_adapter_can_find_more(plugin_dir: Path) -> None:
    make(plugin_dir, "one", judge="return [Mismatch('weights', 'old', 'new')]")
    assert discover([plugin_dir]).judge("mine", identity(), identity()) == [Mismatch("weights", "old", "new")]
