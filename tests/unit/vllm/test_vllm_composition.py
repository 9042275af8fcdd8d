"""What the plugin finds out about the connectors beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rekindle_plugins.vllm.composition import before_registration, composition_of, has_remote_pages
from rekindle_plugins.vllm.loads import Loads
from rekindle_plugins.vllm.support import UnsupportedError

RECOMPUTE = "recompute"


def config(policy: str, *children: str) -> Any:
    extra = {"connectors": [{"kv_connector": child} for child in children]} if children else {}
    transfer = SimpleNamespace(kv_load_failure_policy=policy, kv_connector_extra_config=extra)
    return SimpleNamespace(kv_transfer_config=transfer)


class Child:
    def __init__(self, vllm_config: Any) -> None:
        self.composition = composition_of(vllm_config)


class MultiConnector:
    """As vLLM's: its own configuration is set before its children are made, which do not get to see it."""

    def __init__(self, vllm_config: Any) -> None:
        self._vllm_config = vllm_config
        self.registered: list[dict[str, Any]] = []
        self.child = Child(config("fail"))

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self.registered.append(dict(kv_caches))


class Subclass(MultiConnector):
    pass


@pytest.mark.parametrize("policy", ["recompute", "fail"])
def test_alone_our_own_policy_counts(policy: str) -> None:
    composition = Child(config(policy)).composition
    assert composition.parent is None
    assert composition.others == ()
    assert composition.failed_loads_recompute is (policy == RECOMPUTE)


@pytest.mark.parametrize("kind", [MultiConnector, Subclass])
@pytest.mark.parametrize("children", [("RekindleConnector", "NixlConnector"), ("NixlConnector", "RekindleConnector")])
@pytest.mark.parametrize("policy", ["recompute", "fail"])
def test_beside_others_the_policy_at_the_top_counts(kind: Any, children: tuple[str, ...], policy: str) -> None:
    parent = kind(config(policy, *children))
    composition = parent.child.composition
    assert composition.parent is parent
    assert composition.others == ("NixlConnector",)
    assert composition.failed_loads_recompute is (policy == RECOMPUTE)


def test_two_of_us_are_refused_with_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match="RekindleConnector 2 times: leave one"):
        MultiConnector(config(RECOMPUTE, "RekindleConnector", "RekindleConnector"))


def test_our_work_is_done_before_any_child_registers_the_memory() -> None:
    parent, other = (MultiConnector(config(RECOMPUTE, "RekindleConnector")) for _ in range(2))
    caches = {"layer": "old"}
    before_registration(parent, lambda given: given.update(layer="moved"))
    parent.register_kv_caches(caches)
    assert parent.registered == [{"layer": "moved"}]
    other.register_kv_caches({"layer": "old"})
    assert other.registered == [{"layer": "old"}]


class Stored:
    """A leader's presence filter, and keys that are the page's number."""

    linked = True

    def __init__(self, pages: int) -> None:
        self.pages = pages

    def has(self, key: int) -> bool:
        return key < self.pages

    def secret_of(self, _: Any) -> bytes:
        return b"s"

    def count(self, request: Any, _: int) -> int:
        return int(request.num_tokens // 4)

    def key(self, _: Any, _group: int, index: int, _secret: bytes) -> int:
        return index


@pytest.mark.parametrize(
    ("params", "stored", "computed", "offered"),
    [
        (None, 3, 0, 12),
        ({"do_remote_prefill": True}, 3, 0, 0),  # they have all of it
        ({"do_remote_prefill": True}, 5, 0, 20),  # so have we, but for a part of a page
        ({"do_remote_prefill": True}, 5, 8, 12),
        ({"do_remote_prefill": True}, 5, 20, 0),
        ({"do_remote_prefill": False}, 3, 0, 12),  # they have brought it, or could not
    ],
)
def test_what_another_engine_has_more_of_is_left_to_its_connector(
    params: Any, stored: int, computed: int, offered: int
) -> None:
    store: Any = Stored(stored)
    loads = Loads(store, store, 4)
    request = SimpleNamespace(request_id="r", num_tokens=22, kv_transfer_params=params)
    assert has_remote_pages(request) is bool(params and params["do_remote_prefill"])
    assert loads.offer(request, computed) == offered
