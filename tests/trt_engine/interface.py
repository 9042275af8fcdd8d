"""TensorRT-LLM's connector interface, as far as a connector sees it, under the module names of either version."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

PLACES = {
    "new": "tensorrt_llm._torch.pyexecutor.connectors.kv_cache_connector",
    "old": "tensorrt_llm._torch.pyexecutor.kv_cache_connector",
}


@dataclass
class RequestData:
    """What is new of one request since the step before."""

    request_id: int
    new_tokens: list[int]
    new_block_ids: list[int]
    computed_position: int
    num_scheduled_tokens: int
    block_hashes: list[int] = field(default_factory=list)
    priorities: list[int] | None = None
    cache_salt: str | None = None
    new_block_ids_by_layer_group: list[list[int]] = field(default_factory=list)


@dataclass
class SchedulerOutput:
    new_requests: list[RequestData] = field(default_factory=list)
    cached_requests: list[RequestData] = field(default_factory=list)


class KvCacheConnectorWorker(ABC):
    def __init__(self, llm_args: Any) -> None:
        self._llm_args = llm_args
        self._metadata: object = None

    def bind_connector_meta(self, metadata: object) -> None:
        self._metadata = metadata

    def get_connector_meta(self) -> object:
        return self._metadata

    @abstractmethod
    def register_kv_caches(self, kv_cache_tensor: Any) -> None: ...

    def register_kv_cache_layout(self, layout: Any) -> None:
        raise NotImplementedError

    @abstractmethod
    def start_load_kv(self, stream: Any) -> None: ...

    @abstractmethod
    def wait_for_layer_load(self, layer_idx: int, stream: Any) -> None: ...

    @abstractmethod
    def save_kv_layer(self, layer_idx: int, stream: Any) -> None: ...

    @abstractmethod
    def wait_for_save(self, stream: Any) -> None: ...

    @abstractmethod
    def get_finished(
        self, finished_gen_req_ids: list[int], started_loading_req_ids: list[int]
    ) -> tuple[list[int], list[int]]: ...


class KvCacheConnectorScheduler(ABC):
    def __init__(self, llm_args: Any) -> None:
        self._llm_args = llm_args

    @abstractmethod
    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> object: ...

    @abstractmethod
    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]: ...

    @abstractmethod
    def request_finished(self, request: Any, cache_block_ids: list[int]) -> bool: ...

    @abstractmethod
    def update_state_after_alloc(self, request: Any, block_ids: list[int]) -> None: ...


_rank = 0


def set_rank(rank: int) -> None:
    """What `mpi_rank` says from now on: the ranks of the stand-in are one process."""
    global _rank
    _rank = rank


def install(place: str = "new") -> None:
    """Makes the modules importable that a connector imports; "old" or "new" says where the interface lies."""
    names = PLACES[place].split(".")
    for depth in range(1, len(names) + 1):
        name = ".".join(names[:depth])
        module = ModuleType(name)
        module.__path__ = []  # type: ignore[attr-defined]
        sys.modules[name] = module
    sys.modules["tensorrt_llm"].__version__ = "1.3.0"  # type: ignore[attr-defined]
    interface: Any = sys.modules[PLACES[place]]
    interface.KvCacheConnectorScheduler = KvCacheConnectorScheduler
    interface.KvCacheConnectorWorker = KvCacheConnectorWorker
    utils: Any = ModuleType("tensorrt_llm._utils")
    utils.mpi_rank = lambda: _rank
    sys.modules["tensorrt_llm._utils"] = utils


def uninstall() -> None:
    """Undoes `install`, and forgets the classes that were made on it."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "tensorrt_llm" or name == "rekindle_plugins.tensorrt_llm.connector":
            del sys.modules[name]
