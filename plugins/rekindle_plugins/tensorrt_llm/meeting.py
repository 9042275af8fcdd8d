"""Where the leader's half and rank 0's half find each other: the engine makes both in one process, from one `llm_args`.

It makes them at the same time, on two threads, and registers the memory only when both are there.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakValueDictionary

from rekindle_plugins.tensorrt_llm.scheduler import LeaderShim

_lock = threading.Lock()
_leaders: WeakValueDictionary[int, LeaderShim] = WeakValueDictionary()


def announce(llm_args: Any, leader: LeaderShim) -> None:
    """A leader lives as long as its connector, which keeps `llm_args`: so an id is never another's meanwhile."""
    with _lock:
        _leaders[id(llm_args)] = leader


def leader_of(llm_args: Any) -> LeaderShim | None:
    """None on all ranks but 0, and where the leader could not be made."""
    with _lock:
        return _leaders.get(id(llm_args))
