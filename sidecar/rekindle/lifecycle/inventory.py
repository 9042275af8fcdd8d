"""What is in a store, as plain values: made by the keeper on request, shown by the admin API and the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Session:
    """A conversation as the store knows it: a page that no other page follows, and the way from it to the root.

    Two conversations with a common beginning are two sessions that share pages.
    """

    id: str
    """The beginning of the leaf's key. It changes when the conversation goes on."""
    leaf_key: str
    identity: str
    token_count: int
    page_count: int
    size_bytes: int
    """All ranks and groups; shared pages count in each session."""
    last_used_unix: float
    pinned: bool
    """Its last page is pinned, and so all of it stays."""
    pinned_count: int
    token_ids: tuple[int, ...] = ()
    """From position 0. Empty unless asked for: what people said."""
    request_id: str = ""
    """The engine's own id of the request that computed its end. Empty where the sidecar was not told since it started,
    or has forgotten."""


@dataclass(frozen=True)
class Page:
    """One stored page."""

    key: str
    parent_key: str
    """Zeros where the page is the first of its chain."""
    identity: str
    group: int
    slot: int
    token_count: int
    size_bytes: int
    last_used_unix: float
    pinned: bool
    child_count: int
    lazy_only: bool
    """It comes back only when a request asks for it."""


@dataclass(frozen=True)
class PageDetail:
    """One page with what takes longer to tell."""

    page: Page
    checksums: tuple[str, ...]
    """XXH3-128 of each rank's part, as it was when it was checkpointed."""
    damaged_ranks: tuple[int, ...]
    """Ranks whose bytes are something else now."""
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plugin:
    """One plugin that was found, loaded or not."""

    name: str
    source: str
    loaded: bool
    version: str = ""
    api_version: str = ""
    engine: str = ""
    capabilities: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Eviction:
    """What an eviction came to."""

    evicted_count: int
    kept_count: int
    """Pages that were asked for and stay: pinned, being read, or the beginning of another session."""
    freed_bytes: int
