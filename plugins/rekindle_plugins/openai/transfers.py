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
from typing import Any, TypeGuard

from rekindle_plugins.contract.dialect import EngineRequest
from rekindle_plugins.openai import chunks

FIELD = "kv_transfer_params"
_REMOTE = "remote_"


def fetches(params: Any) -> TypeGuard[Mapping[str, Any]]:
    """The second step."""
    return isinstance(params, Mapping) and bool(params.get("do_remote_prefill"))  # engines ask no more than that


def holds(params: Any) -> TypeGuard[Mapping[str, Any]]:
    """The first step."""
    return isinstance(params, Mapping) and bool(params.get("do_remote_decode"))


def without_outdated(request: EngineRequest) -> EngineRequest:
    """The same request, naming no page of another engine."""
    body = body_without_outdated(request.body)
    return request if body is request.body else EngineRequest(request.path, body, request.method)


def body_without_outdated(body: bytes) -> bytes:
    """Likewise, of whatever a client sends: what names no page is given back as it is.

    Raises RecursionError where that cannot be told.
    """
    try:
        fields = json.loads(body)
    except ValueError:
        return body  # nor will an engine find any in it
    params = fields.get(FIELD) if isinstance(fields, dict) else None
    if fetches(params):
        del fields[FIELD]
    elif holds(params):
        fields[FIELD] = {name: None if name.startswith(_REMOTE) else value for name, value in params.items()}
    else:
        return body
    return chunks.dump(fields)
