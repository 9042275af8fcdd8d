"""Lazy restore: pages that the store has are brought to staging memory, and claimed when they are there, never before.

TensorRT-LLM takes what `get_num_new_matched_tokens` answers as a fact. There is no way to tell it of a load that
failed: a request whose asynchronous load is never reported waits for ever, and one that is reported goes on with
whatever its blocks hold (and leaves them to others). And when it asks, the blocks are not allocated yet. So a page is
filled into staging memory first (`staging`), where the copier verifies it; the answer counts the pages that have
arrived on all ranks; and they are copied into the engine's blocks by the engine's own processes, in `start_load_kv`.
The load is a synchronous one in the engine's terms, since nothing is left to wait for.

    get_num_new_matched_tokens   bring: ask the sidecar, wait a moment, claim what has come
    build_connector_meta         the request's blocks are known: plan the copies
    start_load_kv                every rank copies, on the forward's stream
    get_finished, next time      all ranks have (its all-gather came after the copies): the staging pages are free again

Waiting is bounded by `TLLM_REKINDLE_WAIT_MS`, and there is none while an answer is overdue. A page that comes too late
stays in staging memory and serves the next request that asks. Runs on the executor loop's thread, on rank 0.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.client.leader import FillPage, FillResult, Leader
from rekindle_plugins.tensorrt_llm.keys import chain
from rekindle_plugins.tensorrt_llm.messages import Copy


@dataclass
class _Slot:
    """A staging page that is not free. `holds`: claims that have not been copied yet."""

    page: int
    has_arrived: bool = False
    holds: int = 0


class Staging:
    """The leader's view of staging memory, the same on every rank: which pages are there, by key."""

    def __init__(self, leader: Leader, page_count: int, wait_s: float) -> None:
        self.leader = leader
        self._wait_s = wait_s
        self._free = list(reversed(range(page_count)))
        self._slots: OrderedDict[bytes, _Slot] = OrderedDict()
        """The longest unused first."""
        self._keys: dict[int, bytes] = {}
        """Of pages that are being filled."""
        self._is_late = False
        """An answer did not come in time: nobody waits until all of them have."""

    def bring(self, keys: Sequence[bytes]) -> list[int]:
        """The staging pages of the longest prefix of `keys` that has arrived, each held once. May wait a moment."""
        self.take_results()
        wanted = self._begin(keys)
        if not self._is_late:
            deadline = time.monotonic() + self._wait_s
            while self._is_missing(wanted) and (left := deadline - time.monotonic()) > 0 and self._keys:
                self._settle_all(self.leader.fills.wait(left))
            self._is_late = bool(self._keys) and self._is_missing(wanted)
        pages = []
        for key in wanted:
            slot = self._slots.get(key)
            if slot is None or not slot.has_arrived:
                break
            slot.holds += 1
            pages.append(slot.page)
        return pages

    def release(self, keys: Sequence[bytes]) -> None:
        """Gives one hold on each page back."""
        for key in keys:
            self._slots[key].holds -= 1

    def take_results(self) -> None:
        self._settle_all(self.leader.fills.poll())

    def _is_missing(self, wanted: Sequence[bytes]) -> bool:
        return any(key in self._slots and not self._slots[key].has_arrived for key in wanted)

    def _begin(self, keys: Sequence[bytes]) -> list[bytes]:
        """Asks for what is stored and not staged yet. Returns the prefix that is there, or on its way."""
        wanted: list[bytes] = []
        fresh: list[bytes] = []
        for key in keys:
            if key in self._slots:
                self._slots.move_to_end(key)
            elif self.leader.has(key) and (page := self._take_page(wanted)) is not None:
                self._slots[key] = _Slot(page)
                fresh.append(key)
            else:
                break
            wanted.append(key)
        pages = [self._slots[key].page for key in fresh]
        self.leader.raise_pages(pages)
        if pages:
            self._keys.update(zip(pages, fresh, strict=True))
            epoch = self.leader.epoch
            self.leader.fill([FillPage(page, epoch(page), 0, key) for page, key in zip(pages, fresh, strict=True)])
        return wanted

    def _take_page(self, wanted: Sequence[bytes]) -> int | None:
        """A free page, or the one that was not used for longest. None when all are in use."""
        if self._free:
            return self._free.pop()
        in_use = set(wanted)
        for key, slot in self._slots.items():
            if slot.has_arrived and not slot.holds and key not in in_use:
                del self._slots[key]
                return slot.page
        return None

    def _settle_all(self, results: Sequence[FillResult]) -> None:
        for result in results:
            for page in result.ok:
                self._slots[self._keys.pop(page.page_id)].has_arrived = True
            for page, _ in result.failed:
                del self._slots[self._keys.pop(page.page_id)]
                self._free.append(page.page_id)
        if not self._keys:
            self._is_late = False


@dataclass(frozen=True)
class Offer:
    """What was claimed for one request: pages from `first_page` on, held in staging memory."""

    first_page: int
    keys: tuple[bytes, ...]
    staging_pages: tuple[int, ...]


class Loads:
    """Claims, from the moment they are made to the moment that every rank has copied."""

    def __init__(self, staging: Staging, page_tokens: int) -> None:
        self._staging = staging
        self._page_tokens = page_tokens
        self._offers: dict[int, Offer] = {}
        self._copying: list[tuple[int, Offer]] = []
        """(polls since, offer): copies that were planned, and may not have been made on all ranks yet."""

    def offer(self, request_id: int, root: bytes, tokens: Sequence[int], computed_tokens: int) -> int:
        """Tokens that are claimed beyond what the engine has. At least one of the prompt's is left to be computed."""
        size = self._page_tokens
        self.forget(request_id)
        limit = (len(tokens) - 1) // size
        first = computed_tokens // size
        if computed_tokens % size or first >= limit or not self._may_bring:
            return 0
        keys = chain(root, tokens, size, limit)[first:]
        pages = self._staging.bring(keys)
        if pages:
            self._offers[request_id] = Offer(first, tuple(keys[: len(pages)]), tuple(pages))
        return len(pages) * size

    @property
    def _may_bring(self) -> bool:
        return self._staging.leader.linked

    def first_page(self, request_id: int) -> int | None:
        """Where a request's claimed pages begin."""
        offer = self._offers.get(request_id)
        return offer.first_page if offer is not None else None

    def plan(
        self, first: Sequence[Any], later: Sequence[Any], pages_of: Callable[[Any], Sequence[int]]
    ) -> tuple[tuple[Copy, ...], str]:
        """(copies, what is wrong) for the requests of a step, given as the engine's `RequestData`.

        `first` run for the first time: there claims are redeemed. The engine may have allocated less than was claimed
        (the rest is computed), never something else.
        """
        copies: list[Copy] = []
        broken = ""
        for data in later:
            if int(data.request_id) in self._offers:
                broken = f"request {data.request_id} goes on without having begun"
        for data in first:
            offer = self._offers.pop(int(data.request_id), None)
            if offer is None:
                continue
            blocks = pages_of(data)[offer.first_page :]
            if not blocks or any(block < 0 for block in blocks[: len(offer.staging_pages)]):
                broken = f"request {data.request_id} was given no blocks for what was loaded for it"
            copies.extend(Copy(page, int(block)) for page, block in zip(offer.staging_pages, blocks, strict=False))
            self._copying.append((0, offer))
        return tuple(copies), broken

    def forget(self, request_id: int) -> None:
        """The request ended, or starts again, before it took what was claimed for it."""
        offer = self._offers.pop(request_id, None)
        if offer is not None:
            self._staging.release(offer.keys)

    def polled(self) -> None:
        """`get_finished` was called: at the second time after a plan, the all-gather of the first lies behind us."""
        self._staging.take_results()
        waiting = []
        for polls, offer in self._copying:
            if polls:
                self._staging.release(offer.keys)
            else:
                waiting.append((polls + 1, offer))
        self._copying = waiting
