"""Other connectors beside ours, inside vLLM's `MultiConnector`: who they are, and what that means for us.

vLLM gives a child its own part of the configuration and no way to its parent. What only the parent knows has to be
found out all the same: whether a failed load fails the request (the scheduler reads the policy at the top alone),
whether there are two of us, and who registers the KV cache first. So the parent is looked for among the callers of our
constructor.

    the first hit loads    `Loads` leaves to the others what they have more of (`has_remote_pages`)
    all are told           commits need nothing but what vLLM tells every child; a page that another child's transfer
                           brought is committed with the first step that runs on it, as if it had been computed
    delayed frees          are the others' alone: we never ask for one
    one memory             on a CPU we move the KV cache into shared memory; that happens before any child registers it

Leans on `MultiConnector` (vllm/distributed/kv_transfer/kv_connector/v1/multi_connector.py, 0.28 to 0.32):
`register_kv_caches`, and `KVConnectorBase_V1._vllm_config`, which is set before a child is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.vllm.support import UnsupportedError

OURS = "RekindleConnector"
PARENT = "MultiConnector"
RECOMPUTE = "recompute"
MAX_CALLERS = 12


@dataclass(frozen=True)
class Composition:
    """`others`: the names of the connectors beside ours, in their order. `parent`: None where we are alone."""

    parent: Any
    others: tuple[str, ...]
    failed_loads_recompute: bool
    """Otherwise one page that did not come back would fail its request, so that no request may load."""


def composition_of(vllm_config: Any) -> Composition:
    """Call it from within our constructor. Raises UnsupportedError for a composition that cannot be protected."""
    parent = _find_parent()
    whole = vllm_config if parent is None else parent._vllm_config
    transfer = whole.kv_transfer_config
    children = (transfer.kv_connector_extra_config or {}).get("connectors", ()) if parent is not None else ()
    names = [_name(child) for child in children]
    if names.count(OURS) > 1:
        raise UnsupportedError(f"{PARENT} has {OURS} {names.count(OURS)} times: leave one of them")
    recomputes = getattr(transfer, "kv_load_failure_policy", None) == RECOMPUTE
    return Composition(parent, tuple(name for name in names if name != OURS), recomputes)


def before_registration(parent: Any, work: Callable[[dict[str, Any]], None]) -> None:
    """Has `work` done with the KV caches before the first of the parent's children registers them.

    An instance attribute, so that other parents are untouched.
    """
    register: Callable[[dict[str, Any]], None] = parent.register_kv_caches

    def work_and_register(kv_caches: dict[str, Any]) -> None:
        work(kv_caches)
        register(kv_caches)

    parent.register_kv_caches = work_and_register


def has_remote_pages(request: Any) -> bool:
    """Whether another engine holds this request's prompt for it: pages that another connector is about to fetch."""
    params = getattr(request, "kv_transfer_params", None)
    return isinstance(params, Mapping) and bool(params.get("do_remote_prefill"))


def _name(child: Any) -> str:
    return str(child.get("kv_connector")) if isinstance(child, Mapping) else str(child)


def _find_parent() -> Any:
    """The connector whose constructor calls ours, or None."""
    frame = sys._getframe(1)
    for _ in range(MAX_CALLERS):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        caller = frame.f_locals.get("self")
        if caller is not None and any(kind.__name__ == PARENT for kind in type(caller).__mro__):
            return caller
    return None
