"""What the open stores hold, told as plain values: sessions, pages, and one of them in full.

Runs on the keeper's event loop and lets it go on between parts of a long answer. Reads records, never page bytes: what
has to look at those is in `keeper.scrub`. Token content is left out unless it was asked for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from rekindle_plugins.contract.journal import LAZY_ONLY

from rekindle.keeper import chains
from rekindle.keeper.refusals import NotFoundError, RequestError
from rekindle.keeper.stores import OpenStore, Stores
from rekindle.lifecycle.inventory import Page, Session
from rekindle.store.page import I64, Slot
from rekindle.store.slot_table import SlotState

MAX_ROWS = 1000
_NO_POSITIONS: I64 = np.empty((0, 3), dtype=np.int64)
HOPS_PER_TURN = 20_000
"""Pages looked at before the event loop has its turn."""
_TOKEN = re.compile(r"(\d{1,20})\.(\d{1,10})\.(\d{1,4})")


class Inventory:
    """Answers questions about `stores`. Every method may be called at any time."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores

    def opened(self, identity: str = "") -> list[OpenStore]:
        """The open stores whose identity begins with these digits; all without. Raises NotFoundError."""
        there = [store for store in self.stores.open_stores.values() if not store.is_closing]
        found = [store for store in there if store.identity.digest.hex().startswith(identity)]
        if identity and not found:
            names = ", ".join(store.name for store in there) or "none"
            raise NotFoundError("find", f"store {identity[:64]!r}", "it is not open", f"open: {names}")
        return found

    def only(self, identity: str, op: str) -> OpenStore:
        """The one open store, or the one that is named. Raises NotFoundError, RequestError where it is not clear."""
        stores = self.opened(identity)
        if not stores:
            raise NotFoundError(op, "store", "none is open", "an engine has to have been attached once")
        if len(stores) > 1:
            names = ", ".join(store.name for store in stores)
            raise RequestError(op, "store", f"several are open: {names}", "name one with --identity")
        return stores[0]

    def session_of(self, session_id: str) -> tuple[OpenStore, list[Slot]]:
        """The chain of one session, root first. Raises RequestError, NotFoundError."""
        store, leaf = chains.find(self.opened(), session_id, "session", "leaves")
        return store, chains.chain(store.catalog, leaf)

    def page_of(self, key: str) -> tuple[OpenStore, Slot]:
        """One page, by the beginning of its key. Raises RequestError, NotFoundError."""
        return chains.find(self.opened(), key, "page", "pages")

    async def sessions(self, identity: str, rows: int, after: str) -> tuple[list[Session], str]:
        """Up to `rows` sessions, the most recently used first, and the token of the next ones ("" at the end).

        Raises RequestError for a token that is not ours, NotFoundError for an identity that is not open.
        """
        start = _read_token(after)
        stores = self.opened(identity)
        leaves = np.concatenate([_positions(store, number) for number, store in enumerate(stores)] or [_NO_POSITIONS])
        leaves = leaves[np.lexsort(leaves.T[::-1])]
        if start is not None:
            leaves = leaves[_first_after(leaves, start) :]
        found: list[Session] = []
        part, hops = [tuple(position) for position in leaves[: _checked_rows(rows)].tolist()], 0
        with ExitStack() as borrowed:
            borrows = [borrowed.enter_context(self.stores.borrow(store)) for store in stores]
            for _, slot, number in part:
                borrows[number].check("list")
                catalog = stores[number].catalog
                if catalog.state(Slot(slot)) is not SlotState.STORED:
                    continue  # it went while the loop had its turn
                found.append(session(stores[number], chains.chain(catalog, Slot(slot))))
                hops += found[-1].page_count
                if hops > HOPS_PER_TURN:
                    hops = 0
                    await asyncio.sleep(0)
        return found, _write_token(part[-1]) if len(leaves) > len(part) else ""

    def session(self, session_id: str, with_tokens: bool) -> Session:
        """Raises RequestError, NotFoundError."""
        store, slots = self.session_of(session_id)
        return session(store, slots, with_tokens)

    def pages(self, identity: str, session_id: str, rows: int, after: str) -> tuple[list[Page], str]:
        """Up to `rows` pages in the order of their slots, or of one session from its root on; and the next token.

        Raises RequestError, NotFoundError.
        """
        begin = _read_token(after) or (0, 0, 0)
        rows = _checked_rows(rows)
        if session_id:
            store, slots = self.session_of(session_id)
            part, left = slots[begin[1] : begin[1] + rows], len(slots) - begin[1] - rows
            return [page(store, slot) for slot in part], _write_token((0, begin[1] + rows, 0)) if left > 0 else ""
        found: list[Page] = []
        stores = self.opened(identity)
        for number, store in enumerate(stores):
            if number < begin[2]:
                continue
            stored = store.catalog.stored_slots()
            first = begin[1] if number == begin[2] else 0
            for slot in stored[np.searchsorted(stored, first) :][: rows - len(found) + 1].tolist():
                if len(found) == rows:
                    return found, _write_token((0, slot, number))
                found.append(page(store, Slot(slot)))
        return found, ""


def session(store: OpenStore, slots: Sequence[Slot], with_tokens: bool = False) -> Session:
    """One session from its chain, root first."""
    catalog, arena = store.catalog, store.catalog.arena
    every = chains.with_companions(store, list(slots)) if store.parts.group_count > 1 else list(slots)
    groups, counts = np.unique(arena.groups[every], return_counts=True)
    key = arena.key(slots[-1]).hex()
    tokens = [token for slot in slots for token in catalog.entry(slot).tokens] if with_tokens else []
    return Session(
        id=key[: chains.ID_CHARS],
        leaf_key=key,
        identity=store.name,
        token_count=int(arena.token_counts[slots].sum()),
        page_count=len(slots),
        size_bytes=sum(store.parts.page_bytes(int(g)) * int(n) for g, n in zip(groups, counts, strict=True)),
        last_used_unix=int(arena.last_uses[slots[-1]]) / 1e9,
        pinned=bool(arena.pins[slots[-1]]),
        pinned_count=int(np.count_nonzero(arena.pins[slots])),
        token_ids=tuple(tokens),
        request_id=store.requests.of(arena.key(slot) for slot in reversed(slots)),
    )


def page(store: OpenStore, slot: Slot) -> Page:
    """One stored page."""
    entry = store.catalog.entry(slot)
    return Page(
        key=entry.key.hex(),
        parent_key=entry.parent.hex(),
        identity=store.name,
        group=entry.group,
        slot=slot,
        token_count=len(entry.tokens),
        size_bytes=store.parts.page_bytes(entry.group),
        last_used_unix=entry.last_use / 1e9,
        pinned=entry.pinned,
        child_count=sum(1 for _ in store.catalog.children(slot)),
        lazy_only=bool(entry.flags & LAZY_ONLY),
    )


def _checked_rows(rows: int) -> int:
    if not 1 <= rows <= MAX_ROWS:
        hint = "ask for fewer, and go on with the page token"
        raise RequestError("list", "rows", f"{rows} a page, wanted 1 to {MAX_ROWS}", hint)
    return rows


def _positions(store: OpenStore, number: int) -> I64:
    """(n, 3) where each session stands in the order in which they are told: minus its last use, its slot, its store."""
    slots = chains.leaves(store.catalog)
    ticks = store.catalog.arena.last_uses[slots].astype(np.int64)
    return np.stack([-ticks, slots, np.full_like(slots, number)], axis=1)


def _first_after(positions: I64, start: tuple[int, int, int]) -> int:
    """How many of the sorted positions come before that one, or are it."""
    ticks, slots, numbers = positions.T
    is_before = (slots < start[1]) | ((slots == start[1]) & (numbers <= start[2]))
    return int(np.count_nonzero((ticks < start[0]) | ((ticks == start[0]) & is_before)))


def _read_token(text: str) -> tuple[int, int, int] | None:
    if not text:
        return None
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise RequestError("list", f"page token {text[:40]!r}", "it is none of ours", "begin again without one")
    return -int(match[1]), int(match[2]), int(match[3])


def _write_token(position: tuple[int, int, int]) -> str:
    return f"{-position[0]}.{position[1]}.{position[2]}"
