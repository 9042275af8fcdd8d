"""How many bytes a page of each group has on each rank, as text within the identity.

Runs in the keeper. A slot of the arena is as large as the largest page; how much of it a page fills, and its checksum
covers, only the engine's regions tell. It is written into the identity's field `page_layout` behind the layout's
digest, so that a store can be verified and exported while no engine is attached:

    page_layout   <32 hex digits> <ranks>*<bytes of group 0>,<bytes of group 1>…;<ranks>*…
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rekindle_plugins.contract.errors import StoreError
from rekindle_plugins.contract.geometry import MAX_GROUPS, Region
from rekindle_plugins.contract.identity import MAX_VALUE_CHARS, Identity

from rekindle.store.layout import PageGeometry

FIELD = "page_layout"
_TEXT = re.compile(r"\d{1,4}\*\d{1,13}(,\d{1,13})*(;\d{1,4}\*\d{1,13}(,\d{1,13})*)*")


@dataclass(frozen=True)
class PageParts:
    """`by_rank[rank][group]` is a number of bytes. Every rank has every group."""

    by_rank: tuple[tuple[int, ...], ...]

    @staticmethod
    def of_regions(regions: Sequence[Region]) -> PageParts:
        ordered = sorted(regions, key=lambda region: region.rank)
        return PageParts(tuple(tuple(group.part_bytes for group in region.groups) for region in ordered))

    @staticmethod
    def of_identity(identity: Identity, page: PageGeometry) -> PageParts:
        """What the identity says, if it fits the arena's pages. Raises StoreError."""
        text = dict(identity.fields).get(FIELD, "").partition(" ")[2]
        subject = f"store {identity.digest.hex()[:12]}"
        if not _TEXT.fullmatch(text):
            problem = f"its identity does not say how large its pages are ({text[:40]!r})"
            raise StoreError("read", subject, problem, "it was made by another version of Rekindle, or by hand")
        by_rank: list[tuple[int, ...]] = []
        for run in text.split(";"):
            count, _, sizes = run.partition("*")
            by_rank += [tuple(map(int, sizes.split(",")))] * int(count)
        groups = {len(sizes) for sizes in by_rank}
        fits = len(by_rank) == page.ranks and len(groups) == 1 and max(groups) <= MAX_GROUPS
        if not fits or not all(1 <= size <= page.rank_bytes for sizes in by_rank for size in sizes):
            problem = f"its identity speaks of pages {text[:80]!r}, the store has {page}"
            raise StoreError("read", subject, problem, "the file has been made or changed by hand")
        return PageParts(tuple(by_rank))

    @property
    def group_count(self) -> int:
        return len(self.by_rank[0])

    def page_bytes(self, group: int) -> int:
        """Of a page of a group, all ranks together."""
        return sum(sizes[group] for sizes in self.by_rank)

    def to_text(self) -> str:
        """The text of the field, or nothing where it would not fit into an identity."""
        runs = [f"{len(list(same))}*{','.join(map(str, sizes))}" for sizes, same in groupby(self.by_rank)]
        text = ";".join(runs)
        return text if len(text) <= MAX_VALUE_CHARS - 64 else ""
