"""Lazy restore: when a request asks for a prefix that the engine lacks and the store has, load it into its new blocks.

    get_num_new_matched_tokens   how far the presence filter says "stored", in whole pages, leaving a token to compute
    update_state_after_alloc     raise the fence of the target blocks, send the fill
    build_connector_meta         take results; tell the workers, whose get_finished tells vLLM
    (vLLM)                       computes what did not arrive (kv_load_failure_policy "recompute")

A result exists only when no copier can write into the blocks any more, so vLLM never reuses a block too early: until
then the request holds it. Runs on the scheduling thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.client.leader import FillPage, FillResult, Leader
from rekindle_plugins.vllm.composition import has_remote_pages
from rekindle_plugins.vllm.keys import Keys, flags, tokens_of
from rekindle_plugins.vllm.tables import NULL_BLOCK


@dataclass
class _Load:
    request: Any
    first_page: int
    block_ids: Sequence[int]
    secret: bytes


class Loads:
    """Loads of one engine with a single KV-cache group."""

    def __init__(self, leader: Leader, keys: Keys, block_size: int) -> None:
        self._leader = leader
        self._keys = keys
        self._block_size = block_size
        self._offers: dict[str, int] = {}
        self._failed: set[str] = set()
        """Requests that did not get all they were offered. Offered again, they might never be computed."""
        self._loads: dict[int, _Load] = {}
        self._loaded: set[str] = set()
        self._bad: set[int] = set()

    @property
    def pending(self) -> bool:
        return bool(self._loads or self._loaded)

    def offer(self, request: Any, computed_tokens: int) -> int | None:
        """Tokens that could be loaded beyond what vLLM has. May be asked several times for one request.

        None while the digest of the request's adapter is on its way: vLLM asks again with the next step.
        """
        self._offers.pop(request.request_id, None)
        size = self._block_size
        if computed_tokens % size or not self._leader.linked or request.request_id in self._failed:
            return 0
        secret = self._keys.secret_of(request)
        if secret is None:
            return None if self._keys.may_wait_for_secret(request) else 0
        first = computed_tokens // size
        limit = min(self._keys.count(request, 0), (request.num_tokens - 1) // size)
        end = first
        while end < limit and self._leader.has(self._keys.key(request, 0, end, secret)):
            end += 1
        if end == first or (end < limit and has_remote_pages(request)):
            return 0  # nothing, or less than what another connector is about to fetch: vLLM lets one of us load
        self._offers[request.request_id] = first
        return (end - first) * size

    def begin(self, request: Any, block_ids: Sequence[int], tokens: int) -> None:
        """vLLM took the offer: the blocks are allocated and wait for their content."""
        first = self._offers.pop(request.request_id)
        count = tokens // self._block_size
        targets = block_ids[first : first + count]
        secret = self._keys.secret_of(request) or b""
        self._leader.raise_pages([page_id for page_id in targets if page_id != NULL_BLOCK])
        pages = [
            FillPage(page_id, self._leader.epoch(page_id), 0, self._keys.key(request, 0, first + i, secret))
            for i, page_id in enumerate(targets)
            if page_id != NULL_BLOCK
        ]
        if pages:
            self._loads[self._leader.fill(pages)] = _Load(request, first, targets, secret)
        else:  # all of it lies before a chunk's beginning
            self._loaded.add(request.request_id)

    def fail(self, request: Any, block_ids: Sequence[int], tokens: int) -> None:
        """A load could not begin: vLLM waits for it and has to hear that nothing will come."""
        self._bad.update(block_ids[len(block_ids) - tokens // self._block_size :])
        self._failed.add(request.request_id)
        self._loaded.add(request.request_id)

    def forget(self, request: Any) -> None:
        """The request ended, perhaps without having taken what it was offered."""
        self._offers.pop(request.request_id, None)
        self._failed.discard(request.request_id)

    def owns(self, result: FillResult) -> bool:
        return result.fill_id in self._loads

    def settle(self, result: FillResult) -> None:
        """A load is over. A prefix of what arrived counts; everything behind the first gap is computed."""
        load = self._loads.pop(result.fill_id)
        arrived = {page.page_id for page in result.ok}
        good = 0
        while good < len(load.block_ids) and load.block_ids[good] in arrived | {NULL_BLOCK}:
            if load.block_ids[good] != NULL_BLOCK:  # before a sliding window: nobody reads it
                self._adopt(load, good)
            good += 1
        if good < len(load.block_ids):
            self._bad.update(load.block_ids[good:])
            self._failed.add(load.request.request_id)
        self._loaded.add(load.request.request_id)

    def take_finished(self) -> tuple[frozenset[str], frozenset[int]]:
        """(requests, bad blocks) to tell the workers with the next step."""
        if not self._loaded:
            return frozenset(), frozenset()
        finished, bad = frozenset(self._loaded), frozenset(self._bad)
        self._loaded.clear()
        self._bad.clear()
        return finished, bad

    def _adopt(self, load: _Load, offset: int) -> None:
        request, index, page_id = load.request, load.first_page + offset, load.block_ids[offset]
        keys = self._keys
        self._leader.adopt(
            page_id,
            0,
            keys.key(request, 0, index, load.secret),
            keys.parent(request, 0, index, load.secret),
            tokens_of(request, self._block_size, index),
            flags(request.block_hashes[0], load.secret),
        )
