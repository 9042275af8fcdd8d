"""When the scheduler's shim asks for pages at the engine's start."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rekindle_plugins.client import Leader, LeaderConfig
from rekindle_plugins.client.guard import Guard
from rekindle_plugins.contract import Identity, PluginInfo
from rekindle_plugins.contract.identity import REQUIRED

BASE = "vllm.distributed.kv_transfer.kv_connector.v1.base"
log = logging.getLogger("test")


class Pool:
    """As much of a block pool as is asked before a page has come."""

    enable_caching = True

    def get_num_free_blocks(self) -> int:
        return 7

    def get_new_blocks(self, count: int) -> list[Any]:
        raise AssertionError("there is no page to put anywhere")

    def free_blocks(self, blocks: list[Any]) -> None:
        assert blocks == []

    def get_cached_block(self, *_: Any) -> None:
        return None

    _insert_block_hash = get_cached_block


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What a shim says to a sidecar that had stored nothing when it attached."""
    for name in [BASE[:end] for end, letter in enumerate(BASE + ".") if letter == "."]:
        module = ModuleType(name)  # vLLM is not installed here, and the shim only derives from two of its classes
        module.KVConnectorMetadata = module.KVConnectorWorkerMetadata = object  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("messages", "scheduler"):
        monkeypatch.delitem(sys.modules, f"rekindle_plugins.vllm.{name}", raising=False)
    from rekindle_plugins.vllm.scheduler import SchedulerShim

    path, identity = str(tmp_path / "attach.sock"), Identity.of(dict.fromkeys(REQUIRED, "x"))
    leader = Leader(LeaderConfig(path, "engine-1", PluginInfo("test", "1", "none"), "1", identity, 8, (4,), 1), log)
    leader.link.linked.set()
    messages: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(leader.link, "send", lambda type_, **fields: messages.append((type_, fields)) or True)
    shim = SchedulerShim(Guard(log, lambda: None), log)
    shim.leader = leader
    shim._groups = ()
    shim._settings = SimpleNamespace(restore_budget_s=0.0)  # type: ignore[assignment]
    shim._restore(Pool())
    return messages


def test_pages_are_asked_for_also_when_none_was_stored_at_the_moment_of_attaching(
    sent: list[tuple[str, dict[str, Any]]],
) -> None:
    """The engine before may just be being salvaged: the answer waits for that."""
    assert ("plan", {"plan_id": 1, "max_pages": 7}) in sent
    assert [type_ for type_, _ in sent] == ["plan", "report"]
