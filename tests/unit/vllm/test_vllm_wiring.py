"""Our connector beside one that a vLLM command has already."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rekindle_plugins.contract.adapter import Launch
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.vllm.adapter import TRANSFER_CONFIG, VllmAdapter

OURS = dict(TRANSFER_CONFIG)
NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_producer", "kv_buffer_device": "cpu"}
COMMAND = ("vllm", "serve", "m")


def wired(given: Any, *, joined: bool = False, flag: str = "--kv-transfer-config") -> dict[str, Any]:
    text = json.dumps(given)
    words = (f"{flag}={text}",) if joined else (flag, text)
    done = VllmAdapter().wire(Launch(COMMAND, (*words, "--port", "1"))).launch
    assert done.command == COMMAND
    assert done.args[-2:] == ("--port", "1")
    name, _, value = done.args[0].partition("=")
    assert name == flag
    found = json.loads(value if joined else done.args[1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("flag", ["--kv-transfer-config", "--kv_transfer_config"])
def test_a_single_connector_gets_ours_beside_it_under_one_roof(joined: bool, flag: str) -> None:
    assert wired(NIXL, joined=joined, flag=flag) == {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_producer",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"connectors": [OURS, NIXL]},
    }


def test_what_vllm_takes_at_the_top_alone_is_lifted_there() -> None:
    found = wired(NIXL | {"engine_id": "e", "kv_load_failure_policy": "fail"})
    assert found["engine_id"] == "e"
    assert found["kv_load_failure_policy"] == "fail"
    assert found["kv_connector_extra_config"]["connectors"] == [OURS, NIXL]


def test_several_connectors_get_ours_as_the_first() -> None:
    multi = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [NIXL, {"kv_connector": "Other"}], "x": 1},
    }
    found = wired(multi)
    children = [OURS, NIXL, {"kv_connector": "Other"}]
    assert found["kv_connector_extra_config"] == {"connectors": children, "x": 1}
    assert found["kv_load_failure_policy"] == "recompute"
    assert wired(found) == found, "twice is once"


def test_a_command_that_has_ours_stays_as_it_is() -> None:
    given = OURS | {"kv_connector_extra_config": {"rekindle_run_dir": "/x"}}
    assert wired(given) == given


@pytest.mark.parametrize(
    "words",
    [
        ("--kv-transfer-config", "{}"),
        ("--kv-transfer-config", "no json"),
        ("--kv-transfer-config",),
        ("--kv-transfer-config.kv_connector=NixlConnector", "--kv-transfer-config.kv_role=kv_both"),
        ("--kv-transfer-config", json.dumps(NIXL), "--kv-transfer-config", json.dumps(NIXL)),
        ("--kv-transfer-config=[1]",),
    ],
)
def test_what_cannot_be_edited_is_refused_with_what_to_write_by_hand(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="cannot be edited here") as refused:
        VllmAdapter().wire(Launch(COMMAND, words))
    assert "RekindleConnector" in refused.value.hint


def test_ours_in_a_spelling_that_cannot_be_edited_stays() -> None:
    launch = Launch(COMMAND, ("--kv-transfer-config.kv_connector=RekindleConnector",))
    assert VllmAdapter().wire(launch).launch == launch


@pytest.mark.parametrize(
    "launch",
    [
        Launch((*COMMAND, "--kv-offloading-size", "10")),
        Launch((*COMMAND, "--kv_offloading_size=10")),
        Launch((*COMMAND, "--kv-off=10", "--kv-transfer-config", json.dumps(OURS))),
        Launch(("sh", "-c", "vllm serve m --kv-offloading-size 10 --kv-transfer-config {RekindleConnector} | tee log")),
    ],
    ids=str,
)
def test_offloading_of_vllms_own_would_take_our_place(launch: Launch) -> None:
    with pytest.raises(ConfigError, match="in the place of RekindleConnector") as refused:
        VllmAdapter().wire(launch)
    for word in ("take it out", "MultiConnector", "OffloadingConnector", "cpu_bytes_to_use"):
        assert word in refused.value.hint


@pytest.mark.parametrize("words", [("--config", "/c.yaml"), ("--config=/c.yaml",)])
def test_a_file_of_flags_is_for_people_to_look_into(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="may name a connector") as refused:
        VllmAdapter().wire(Launch((*COMMAND, *words)))
    assert "--kv-transfer-config '{" in refused.value.hint
    by_hand = Launch((*COMMAND, *words, "--kv-transfer-config", json.dumps(OURS)))
    assert VllmAdapter().wire(by_hand).launch == by_hand
    beside = VllmAdapter().wire(Launch((*COMMAND, *words, "--kv-transfer-config", json.dumps(NIXL)))).launch
    assert "MultiConnector" in beside.words[-1], "what is on the command line counts more than the file"
    other = VllmAdapter().wire(Launch((*COMMAND, "--config-format", "mistral"))).launch
    assert other.words[-2] == "--kv-transfer-config"


def test_only_the_server_of_its_command_line_is_an_engine() -> None:
    main = ("python3", "-m", "vllm.entrypoints.cli.main")
    assert VllmAdapter().recognises(Launch((*main, "serve", "m")))
    assert not VllmAdapter().recognises(Launch((*main, "bench", "serve")))
    assert not VllmAdapter().recognises(Launch(main))
