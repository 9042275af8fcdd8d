"""Small arenas and pages that the store's tests share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rekindle.store import (
    Arena,
    ArenaGeometry,
    Catalog,
    ClaimOutcome,
    OpenLog,
    OpenReport,
    PageGeometry,
    PublishOutcome,
    Slot,
)
from rekindle.store.arena_file import Step, no_step

ROOT = bytes(32)
IDENTITY = '{"model":"tiny"}'
DIGEST = hashlib.sha256(IDENTITY.encode()).digest()
PAGE = PageGeometry(rank_bytes=64, ranks=2, page_tokens=5)
NAME = f"{DIGEST.hex()[:32]}.arena"


def key(name: object) -> bytes:
    """A page's key."""
    return hashlib.sha256(str(name).encode()).digest()


def sums(name: object, ranks: int = PAGE.ranks) -> list[bytes]:
    """A page's checksums."""
    return [hashlib.md5(f"{name} {rank}".encode()).digest() for rank in range(ranks)]


def open_arena(
    directory: Path, slots: int = 8, page: PageGeometry = PAGE, digest: bytes = DIGEST, step: Step = no_step
) -> tuple[Arena, Catalog, OpenReport]:
    """Open or make the sample arena in ``directory``."""
    log = OpenLog()
    arena = Arena.open(directory / NAME, digest, IDENTITY, ArenaGeometry(page, slots), log, step=step)
    catalog = Catalog(arena, log, eviction_batch=2, step=step)
    return arena, catalog, log.finish(catalog.counters().stored)


def claim(catalog: Catalog, name: object, parent: object = None, group: int = 0) -> Slot:
    """Claim a page that can be claimed; its tokens are the first bytes of its key."""
    parent_key = ROOT if parent is None else key(parent)
    outcome = catalog.claim(key(name), parent_key, group, 3, list(key(name)[:4]))
    assert outcome.outcome is ClaimOutcome.CLAIMED, outcome
    assert outcome.slot is not None
    return outcome.slot


def store(catalog: Catalog, name: object, parent: object = None, group: int = 0) -> Slot:
    """Claim and publish a page."""
    slot = claim(catalog, name, parent, group)
    outcome = catalog.publish(slot, sums(name, catalog.arena.geometry.page.ranks))
    assert outcome is PublishOutcome.PUBLISHED
    return slot


def store_chain(catalog: Catalog, *names: object, group: int = 0) -> list[Slot]:
    """Store pages, each the parent of the next."""
    parents = (None, *names[:-1])
    return [store(catalog, name, parent, group) for name, parent in zip(names, parents, strict=True)]


def stored_names(catalog: Catalog, names: str) -> str:
    """Which of these one-letter pages are stored."""
    return "".join(name for name in names if catalog.lookup(key(name)) is not None)
