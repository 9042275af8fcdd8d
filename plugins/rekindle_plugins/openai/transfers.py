"""Requests of disaggregated serving: `kv_transfer_params`, which tell an engine of KV that another one holds.

    first step    `do_remote_decode`: the prefill engine keeps the prompt's pages, and its answer says where they are
    second step   `do_remote_prefill`: the decode engine fetches them from there

Pages are fetched by their numbers, and whoever holds them lets go of them when they were fetched, or when nobody has
done so for a while (30 s in vLLM's NixlConnector). The numbers then mean other pages, and nobody would notice. So a
request whose numbers may be outdated is sent without them: its prompt comes out of the decode engine's own pages, or is
computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rekindle_plugins.contract.dialect import EngineRequest
from rekindle_plugins.openai import chunks

FIELD = "kv_transfer_params"
_REMOTE = "remote_"


def fetches(params: Any) -> bool:
    """The second step."""
    return isinstance(params, Mapping) and params.get("do_remote_prefill") is True


def holds(params: Any) -> bool:
    """The first step."""
    return isinstance(params, Mapping) and params.get("do_remote_decode") is True


def without_outdated(request: EngineRequest) -> EngineRequest:
    """The same request, naming no page of another engine."""
    fields = json.loads(request.body)
    params = fields.get(FIELD)
    if fetches(params):
        del fields[FIELD]
    elif holds(params):
        fields[FIELD] = {name: None if name.startswith(_REMOTE) else value for name, value in params.items()}
    else:
        return request
    return EngineRequest(request.path, chunks.dump(fields), request.method)
