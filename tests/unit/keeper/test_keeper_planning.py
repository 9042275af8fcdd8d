"""The restore plan, sent in parts while others use the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rekindle.keeper import planning
from rekindle.keeper.planning import plan_messages, planned_pages
from rekindle.store import PageGeometry, Store
from rekindle.store.page import ClaimOutcome
from rekindle_plugins.contract.journal import ROOT


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def test_a_plan_goes_on_when_another_engine_takes_a_page_of_it(tmp_path: Path) -> None:
    with Store(tmp_path, 1 << 20) as store:
        catalog = store.open(b"i" * 32, "{}", PageGeometry(64, 1, 16)).catalog
        names = [f"page {number}" for number in range(catalog.counters().slot_count)]
        for name in names:
            slot = catalog.claim(key(name), ROOT, 0, 0, range(16)).slot
            assert slot is not None
            catalog.publish(slot, [b"c" * 16])
        messages = plan_messages(planned_pages(catalog, planning.MAX_PLAN_PAGES))
        rows, is_last = next(messages)
        assert not is_last
        claim = catalog.claim(key("of another engine"), ROOT, 0, 0, range(16))  # the oldest page goes for it
        assert claim.outcome is ClaimOutcome.CLAIMED
        *parts, (last_rows, is_last) = messages
        assert is_last
        rows += [row for part, _ in parts for row in part] + last_rows
        assert [row[0] for row in rows] == [key(name).hex() for name in reversed(names[1:])]
