"""Geometry: contradictions are refused, and joining runs changes neither the bytes nor their order."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle_plugins.contract import GeometryError, GroupGeometry, Region, Run
from rekindle_plugins.contract.geometry import MAX_BUFFERS, MAX_GROUPS, MAX_PAGES, MAX_RUNS_PER_GROUP, coalesce

GOOD = Region(0, "shm", 4, (4096,), (GroupGeometry(16, (Run(0, 0, 64, 32, 2, 512), Run(0, 32, 64, 32, 2, 512))),))


def with_runs(*runs: Run, page_count: int = 4, sizes: tuple[int, ...] = (4096, 4096)) -> Region:
    return Region(0, "shm", page_count, sizes, (GroupGeometry(16, runs),))


CONTRADICTIONS = {
    "no pages": (replace(GOOD, page_count=0), "page count 0"),
    "too many pages": (replace(GOOD, page_count=MAX_PAGES + 1), "page count"),
    "no groups": (replace(GOOD, groups=()), "0 groups"),
    "too many groups": (replace(GOOD, groups=GOOD.groups * (MAX_GROUPS + 1)), "65 groups"),
    "no buffers": (replace(GOOD, sizes=()), "in 0 buffers"),
    "too many buffers": (replace(GOOD, sizes=(4096,) * (MAX_BUFFERS + 1)), "201 buffers"),
    "no tokens": (replace(GOOD, groups=(GroupGeometry(0, (Run(0, 0, 8, 8),)),)), "0 tokens a page"),
    "no runs": (with_runs(), "0 runs"),
    "too many runs": (with_runs(*[Run(0, 0, 8, 8)] * (MAX_RUNS_PER_GROUP + 1)), "4097 runs"),
    "unknown buffer": (with_runs(Run(2, 0, 8, 8)), "buffer 2 of 2"),
    "negative buffer": (with_runs(Run(-1, 0, 8, 8)), "buffer -1"),
    "empty segment": (with_runs(Run(0, 0, 8, 0)), "negative or empty"),
    "no segments": (with_runs(Run(0, 0, 8, 8, 0)), "negative or empty"),
    "negative base": (with_runs(Run(0, -1, 8, 8)), "negative or empty"),
    "negative stride": (with_runs(Run(0, 0, -8, 8)), "negative or empty"),
    "negative step": (with_runs(Run(0, 0, 8, 8, 2, -8)), "negative or empty"),
    "segments too close": (with_runs(Run(0, 0, 64, 8, 2, 7)), "only 7 B apart"),
    "pages too close": (with_runs(Run(0, 0, 7, 8)), "pages 7 B apart"),
    "beyond its buffer": (with_runs(Run(0, 0, 64, 32, 2, 3873)), "ends at byte 4097"),
    "overlap within a page": (with_runs(Run(0, 0, 64, 32), Run(0, 31, 64, 32)), "overlapping segments at byte 31"),
    "a page's segment in the next page": (with_runs(Run(0, 0, 10, 4, 2, 12)), "overlapping segments at byte 12"),
    "the next page's run in this page's": (with_runs(Run(0, 0, 16, 8), Run(0, 20, 16, 8)), "overlapping"),
    "around the end of the stride": (with_runs(Run(0, 4, 16, 8), Run(0, 30, 16, 8)), "overlapping"),
    "two strides over each other": (with_runs(Run(0, 0, 16, 8), Run(0, 8, 24, 8)), "different strides"),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_contradiction_is_refused_and_named(what: str) -> None:
    region, text = CONTRADICTIONS[what]
    with pytest.raises(GeometryError, match=text):
        region.validate()


@pytest.mark.parametrize(
    "region",
    [
        GOOD,
        with_runs(Run(0, 0, 0, 4096), page_count=1),
        with_runs(Run(0, 0, 1024, 256, 4, 256)),
        with_runs(Run(0, 0, 8, 8, 8, 512)),
        with_runs(*[Run(0, layer * 32, 8, 8) for layer in range(16)]),
        with_runs(Run(0, 0, 16, 8), Run(1, 0, 24, 8)),
        with_runs(Run(0, 0, 16, 8), Run(0, 64, 24, 8)),
    ],
    ids=["layers-of-many-pages", "one-page", "page-major", "layer-major", "many-runs", "two-buffers", "two-strides"],
)
def test_usual_layouts_are_accepted(region: Region) -> None:
    region.validate()


@pytest.mark.timeout(25)
def test_a_page_of_very_many_interleaved_segments_does_not_hold_up_who_reads_its_descriptor() -> None:
    """A removal by linear search took the square of them: most of a minute for 237 bytes of JSON."""
    count, stride = 1 << 16, 1 << 20
    run = Run(0, 0, stride, 16, count, stride - 16)
    with_runs(run, page_count=1 << 15, sizes=(1 << 40,)).validate()


def test_the_segments_of_all_groups_together_are_bounded() -> None:
    run = Run(0, 0, 1 << 20, 8, 1 << 15, 16)
    group = GroupGeometry(4, (run,))
    two = replace(with_runs(run, page_count=2, sizes=(1 << 30,)), groups=(group,) * 2)
    two.validate()
    with pytest.raises(GeometryError, match="all together"):
        replace(two, groups=(group,) * 3).validate()


def test_an_absurd_descriptor_is_refused_at_once() -> None:
    started = time.monotonic()
    absurd = with_runs(Run(0, 0, 1, 1, 1 << 40, 1), page_count=1, sizes=(1 << 62,))
    with pytest.raises(GeometryError, match="segments a page"):
        absurd.validate()
    many = with_runs(Run(0, 0, 1 << 20, 8, 1 << 16, 16), page_count=1 << 20, sizes=(1 << 62,))
    many.validate()
    assert time.monotonic() - started < 5


runs = st.builds(
    Run,
    buffer=st.integers(0, 1),
    base=st.integers(0, 40),
    stride=st.integers(1, 40),
    length=st.integers(1, 8),
    count=st.integers(1, 3),
    step=st.integers(0, 40),
)


def bytes_of(run: Run, page_id: int) -> list[tuple[int, int]]:
    """(buffer, offset) of each byte of a page, in the order of the slot."""
    start = run.base + page_id * run.stride
    return [(run.buffer, start + j * run.step + k) for j in range(run.count) for k in range(run.length)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(runs=st.lists(runs, min_size=1, max_size=3), page_count=st.integers(1, 4))
def test_a_region_is_accepted_only_if_no_byte_belongs_to_two_segments(runs: list[Run], page_count: int) -> None:
    region = with_runs(*runs, page_count=page_count)
    pages = [[byte for run in runs for byte in bytes_of(run, page)] for page in range(page_count)]
    is_disjoint = len({byte for page in pages for byte in page}) == sum(map(len, pages))
    refusal = refusal_of(region)
    if is_disjoint:
        # What is refused all the same: interleaved runs of different strides, and segments out of order.
        assert refusal == "" or "different strides" in refusal or "apart" in refusal
    else:
        assert refusal


def refusal_of(region: Region) -> str:
    try:
        region.validate()
    except GeometryError as error:
        return str(error)
    return ""


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    strides=st.sampled_from([64, 128]),
    parts=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 6), st.sampled_from([8, 16]), st.integers(1, 2)), max_size=8
    ),
)
def test_joined_runs_cover_the_same_bytes_in_the_same_order(
    strides: int, parts: list[tuple[int, int, int, int]]
) -> None:
    runs = [Run(buffer, place * 8, strides, length, count, 32 * (count - 1)) for buffer, place, length, count in parts]
    joined = coalesce(runs)
    assert len(joined) <= len(runs)
    for page_id in (0, 3):
        before = [byte for run in runs for byte in bytes_of(run, page_id)]
        assert [byte for run in joined for byte in bytes_of(run, page_id)] == before


def test_layers_of_one_allocation_become_one_run() -> None:
    layers = [Run(0, layer * 1024, 64, 64) for layer in range(8)]
    assert coalesce(layers) == (Run(0, 0, 64, 64, 8, 1024),)
    pages = [Run(0, part * 32, 256, 32) for part in range(8)]
    assert coalesce(pages) == (Run(0, 0, 256, 256),)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(runs=st.lists(runs, min_size=1, max_size=4), rank=st.integers(0, 7))
def test_a_region_survives_its_way_through_json(runs: list[Run], rank: int) -> None:
    spread = [
        replace(run, base=run.base + 500 * i, step=run.step + 8, stride=run.stride + 100) for i, run in enumerate(runs)
    ]
    region = Region(rank, "shm", 1, (1 << 16, 1 << 16), (GroupGeometry(16, tuple(spread)),))
    assert Region.from_json(json.loads(json.dumps(region.to_json()))) == region


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=json_values)
def test_what_is_no_region_is_a_geometry_error(data: Any) -> None:
    with pytest.raises(GeometryError):
        Region.from_json(data)


PATHS: list[tuple[str | int, ...]] = [
    ("rank",),
    ("page_count",),
    ("sizes",),
    ("sizes", 0),
    ("groups",),
    ("groups", 0),
    ("groups", 0, "page_tokens"),
    ("groups", 0, "runs"),
    ("groups", 0, "runs", 0),
    ("groups", 0, "runs", 0, "length"),
    ("groups", 0, "runs", 0, "base"),
]


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("wrong", [None, True, "7", 1.5, -1, [], {}, {"unknown": 1}, [1, "x"]], ids=repr)
def test_a_wrong_value_anywhere_in_a_descriptor_is_a_geometry_error(path: tuple[str | int, ...], wrong: object) -> None:
    data = json.loads(json.dumps(GOOD.to_json()))
    place: Any = data
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = wrong
    if path == ("rank",) and wrong == -1:
        return  # the keeper checks it against the world's size
    with pytest.raises(GeometryError):
        Region.from_json(data)


@pytest.mark.parametrize("name", ["rank", "kind", "page_count", "sizes", "groups"])
def test_a_missing_field_is_a_geometry_error(name: str) -> None:
    data = GOOD.to_json()
    del data[name]
    with pytest.raises(GeometryError, match=name):
        Region.from_json(data)


def test_the_part_bytes_of_a_region_are_those_of_its_largest_group() -> None:
    region = Region(
        0, "shm", 2, (4096,), (GroupGeometry(16, (Run(0, 0, 64, 32),)), GroupGeometry(4, (Run(0, 0, 64, 8, 3, 8),)))
    )
    region.validate()
    assert [group.part_bytes for group in region.groups] == [32, 24]
    assert region.part_bytes == 32
    assert all(a.part_bytes != b.part_bytes for a, b in combinations(region.groups, 2))
