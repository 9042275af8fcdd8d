"""What a plugin says of itself, and the order of its life."""

from __future__ import annotations

from typing import Any

import pytest
from rekindle_plugins.contract import Capability, Launch, PluginInfo, ProtocolError, Stage, Stages, VersionError


def info(api_version: tuple[int, int] = (1, 2), name: str = "mine") -> PluginInfo:
    return PluginInfo(name, "0.3", "an engine", frozenset({Capability.EAGER_RESTORE}), api_version)


@pytest.mark.parametrize("host", [(1, 2), (1, 3), (1, 99)])
def test_a_host_of_the_same_major_and_no_lower_minor_loads_it(host: tuple[int, int]) -> None:
    info().check("the sidecar", host)


@pytest.mark.parametrize(
    ("host", "behind"),
    [((1, 1), "the sidecar"), ((2, 2), "plugin mine"), ((2, 0), "plugin mine"), ((0, 9), "the sidecar")],
)
def test_any_other_host_refuses_it_and_names_both_versions(host: tuple[int, int], behind: str) -> None:
    with pytest.raises(VersionError) as caught:
        info().check("the sidecar", host)
    assert "contract 1.2" in caught.value.problem
    assert f"speaks {host[0]}.{host[1]}" in caught.value.problem
    assert caught.value.hint == f"upgrade {behind}"


@pytest.mark.parametrize("name", ["", "Mine", "a b", "1st", "x" * 40, "a/b"])
def test_a_name_that_is_no_word_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        info(name=name).check("the sidecar", (1, 9))


def test_it_survives_the_way_over_the_socket() -> None:
    assert PluginInfo.from_json(info().to_json()) == info()


def test_capabilities_of_a_newer_minor_are_left_out() -> None:
    data = info().to_json()
    data["capabilities"] = ["eager-restore", "telepathy", 7]
    assert PluginInfo.from_json(data) == info()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 1},
        {"version": "a\nb"},
        {"engine": "x" * 65},
        {"api_version": [1]},
        {"api_version": [1, -1]},
        {"api_version": [True, 0]},
        {"api_version": "1.0"},
        {"capabilities": None},
        {"capabilities": ["x"] * 33},
    ],
    ids=str,
)
def test_a_malformed_description_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        PluginInfo.from_json(info().to_json() | wrong)


def test_a_life_in_order() -> None:
    stages = Stages("shim of mine")
    for stage in (Stage.INITIALIZED, Stage.ATTACHED, Stage.FINALIZED, Stage.FINALIZED):
        stages.enter(stage)
        assert stages.stage is stage


@pytest.mark.parametrize(
    "order",
    [
        (Stage.ATTACHED,),
        (Stage.INITIALIZED, Stage.INITIALIZED),
        (Stage.FINALIZED, Stage.INITIALIZED),
        (Stage.INITIALIZED, Stage.ATTACHED, Stage.ATTACHED),
    ],
    ids=lambda order: " ".join(stage.value for stage in order),
)
def test_any_other_order_is_refused(order: tuple[Stage, ...]) -> None:
    stages = Stages("shim of mine")
    for stage in order[:-1]:
        stages.enter(stage)
    before = stages.stage
    with pytest.raises(ProtocolError, match="shim of mine"):
        stages.enter(order[-1])
    assert stages.stage is before


@pytest.mark.parametrize(
    ("words", "is_shell"),
    [
        (("sh", "-c", "vllm serve"), True),
        (("/bin/bash", "-lc", "vllm serve"), True),
        (("bash", "start.sh"), False),
        (("vllm", "serve", "-c", "x"), False),
        ((), False),
    ],
)
def test_a_script_for_a_shell_is_told_from_a_command(words: tuple[str, ...], is_shell: bool) -> None:
    assert Launch(words).is_shell is is_shell
    assert Launch(words[:1], words[1:]).is_shell is is_shell
