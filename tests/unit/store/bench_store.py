"""Figures of the store at a million pages; run by hand: ``python tests/unit/store/bench_store.py [slots]``."""

from __future__ import annotations

import hashlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rekindle.store import Arena, ArenaGeometry, Catalog, ClaimOutcome, OpenLog, PageGeometry, PresenceFilter

DIGEST = hashlib.sha256(b"bench").digest()
ROOT = bytes(32)
SUMS = [bytes(16)]
CHAIN_PAGES = 64


@contextmanager
def timed(what: str, times: int = 1) -> Iterator[None]:
    """Print how long the block took, per one of ``times``."""
    began = time.perf_counter()
    yield
    took = time.perf_counter() - began
    each = f"  {took / times * 1e6:8.2f} us each" if times > 1 else ""
    print(f"{what:52} {took * 1e3:9.1f} ms{each}", flush=True)


def open_catalog(path: Path, count: int) -> tuple[Catalog, OpenLog]:
    """Open or make the arena and its catalog."""
    log = OpenLog()
    geometry = ArenaGeometry(PageGeometry(rank_bytes=64, ranks=1, page_tokens=32), count)
    return Catalog(Arena.open(path, DIGEST, "{}", geometry, log), log), log


def store_pages(catalog: Catalog, keys: list[bytes]) -> None:
    """Claim and publish pages in chains of CHAIN_PAGES."""
    tokens = tuple(range(32))
    for number, key in enumerate(keys):
        parent = keys[number - 1] if number % CHAIN_PAGES else ROOT
        claim = catalog.claim(key, parent, 0, 0, tokens)
        assert claim.outcome is ClaimOutcome.CLAIMED
        assert claim.slot is not None
        catalog.publish(claim.slot, SUMS)


def main(count: int) -> None:
    """Measure."""
    random = np.random.default_rng(7)
    blob = random.bytes(32 * (count + 100_000))
    keys = [blob[at : at + 32] for at in range(0, len(blob), 32)]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory) / "bench.arena"
        with timed(f"create, {count} slots"):
            catalog, _ = open_catalog(path, count)
        with timed("claim + publish into free slots", count):
            store_pages(catalog, keys[:count])
        catalog.arena.close()
        del catalog
        with timed(f"reopen, {count} pages"):
            catalog, log = open_catalog(path, count)
        print(log.finish(catalog.counters().stored))
        with timed("lookup of 100,000 that are there", 100_000):
            for key in keys[:100_000]:
                catalog.lookup(key)
        with timed("restore_order of 100,000"):
            catalog.restore_order(100_000)
        with timed("restore_order of all"):
            catalog.restore_order(count)
        presence = PresenceFilter(count)
        with timed("attach a presence filter"):
            catalog.attach(presence)
        longest = 0.0
        with timed("claim + publish when full, evicting", 99_968):
            for start in range(count, count + 99_968, CHAIN_PAGES):
                began = time.perf_counter()
                store_pages(catalog, keys[start : start + CHAIN_PAGES])
                longest = max(longest, time.perf_counter() - began)
        print(f"   longest {CHAIN_PAGES} of them {longest * 1e3:.1f} ms")
        slots = catalog.restore_order(100_000)
        with timed("touch", len(slots)):
            for slot in slots:
                catalog.touch(slot)
        with timed("drop one chain"):
            first = catalog.lookup(keys[count + 99_968 - CHAIN_PAGES])
            assert first is not None
            print("   pages dropped:", catalog.drop(first))
        with timed("clear"):
            catalog.clear()
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"peak RSS {rss / 1024:.0f} MiB, the keys of this script and the record table included")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
