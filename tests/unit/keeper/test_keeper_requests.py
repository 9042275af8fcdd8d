"""Which request a chain's end is of."""

from __future__ import annotations

import hashlib

import pytest
from rekindle.keeper.requests import MAX_ID_CHARS, MAX_KNOWN, MAX_ROWS, RequestNames
from rekindle_plugins.contract.errors import ProtocolError


def key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def told(*rows: tuple[str, str]) -> RequestNames:
    names = RequestNames()
    names.take([[request_id, key(page).hex()] for page, request_id in rows], "the engine")
    return names


def chain(pages: str) -> list[bytes]:
    """From its leaf to its root."""
    return [key(page) for page in reversed(pages)]


def test_the_request_nearest_to_the_leaf_counts() -> None:
    names = told(("a", "first turn"), ("d", "second turn"), ("x", "another conversation"))
    assert names.of(chain("abc")) == "first turn"
    assert names.of(chain("abcde")) == "second turn"
    assert names.of(chain("abx")) == "another conversation"
    assert names.of(chain("uvw")) == ""
    assert RequestNames().of(chain("abc")) == ""


def test_a_page_that_is_computed_again_has_its_last_request() -> None:
    names = told(("a", "one"), ("a", "two"))
    assert names.of(chain("ab")) == "two"


def test_the_oldest_are_forgotten_first() -> None:
    names = told(("root", "old"))
    for start in range(0, MAX_KNOWN, MAX_ROWS):
        names.take([[f"r{n}", key(str(n)).hex()] for n in range(start, start + MAX_ROWS)], "the engine")
    assert names.of([key("root")]) == ""
    assert names.of([key("0")]) == "r0"
    assert len(names._ids) == MAX_KNOWN


def test_what_a_terminal_would_obey_is_not_kept() -> None:
    assert told(("a", "\x1b[2J")).of(chain("a")) == "\\x1b[2J"


@pytest.mark.parametrize(
    "row",
    [
        [],
        "ab",
        ["id"],
        ["id", "00" * 31],
        ["id", "zz" * 32],
        ["", "00" * 32],
        ["i" * (MAX_ID_CHARS + 1), "00" * 32],
        [1, "00" * 32],
        ["id", 5],
        None,
    ],
)
def test_what_is_no_row_is_refused_and_nothing_is_noted(row: object) -> None:
    names = RequestNames()
    with pytest.raises(ProtocolError, match="requests from the engine"):
        names.take([["fine", key("a").hex()], row], "the engine")
    assert names.of(chain("a")) == ""


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        RequestNames().take([["id", "00" * 32]] * (MAX_ROWS + 1), "the engine")
