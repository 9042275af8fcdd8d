"""Our connector added to a vLLM command that has another one already: both under a `MultiConnector`.

    {"kv_connector": "NixlConnector", …}     becomes     MultiConnector of [ours, NixlConnector]
    {"kv_connector": "MultiConnector", …}    gets ours as its first child

First, because the first that has a request's pages loads them, and ours come from the same node. What vLLM takes at
the top alone is lifted there: `engine_id` (a child must not have one: it is given its parent's, and two are a
TypeError) and `kv_load_failure_policy`, which is "fail" where nobody says otherwise. Imports nothing of vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rekindle_plugins.contract.adapter import Launch

MULTI = "MultiConnector"
_AT_THE_TOP = ("engine_id", "kv_load_failure_policy")


def composed(launch: Launch, flag: str, ours: Mapping[str, Any]) -> Launch | None:
    """The launch with our connector beside the one that it names. None where that cannot be told from the command."""
    command, args = list(launch.command), list(launch.args)
    places = [
        (words, index)
        for words in (command, args)
        for index, word in enumerate(words)
        if _spelled(word).startswith(flag)
    ]
    if len(places) != 1:
        return None
    words, index = places[0]
    name, mark, text = words[index].partition("=")
    if _spelled(name) != flag or (not mark and index + 1 == len(words)):
        return None
    config = _config(text if mark else words[index + 1])
    if config is None:
        return None
    both = beside(config, ours)
    if both == config:
        return launch
    together = json.dumps(both, separators=(",", ":"))
    if mark:
        words[index] = f"{name}={together}"
    else:
        words[index + 1] = together
    return replace(launch, command=tuple(command), args=tuple(args))


def beside(config: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """A transfer configuration with our connector in it. One that has it already stays as it is."""
    if config["kv_connector"] == ours["kv_connector"]:
        return dict(config)
    if config["kv_connector"] != MULTI:
        child = {name: value for name, value in config.items() if name not in _AT_THE_TOP}
        top = {name: config[name] for name in _AT_THE_TOP if name in config}
        return _multi({"kv_role": config.get("kv_role", ours["kv_role"])} | top, [child], ours)
    children = list((config.get("kv_connector_extra_config") or {}).get("connectors") or ())
    if any(isinstance(child, Mapping) and child.get("kv_connector") == ours["kv_connector"] for child in children):
        return dict(config)
    return _multi(config, children, ours)


def _multi(top: Mapping[str, Any], children: Sequence[Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    policy = {"kv_load_failure_policy": ours["kv_load_failure_policy"]}
    extra = dict(top.get("kv_connector_extra_config") or {}) | {"connectors": [dict(ours), *children]}
    return {"kv_connector": MULTI} | policy | dict(top) | {"kv_connector_extra_config": extra}


def _config(text: str) -> dict[str, Any] | None:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) and isinstance(config.get("kv_connector"), str) else None


def _spelled(word: str) -> str:
    """The flag in a word, as vLLM spells it; what stands behind `=` or `.` stays as it is."""
    name, mark, rest = word.partition("=")
    return name.replace("_", "-") + mark + rest
