"""Arena files that were damaged, cut short, mistaken for another, or had no room."""

from __future__ import annotations

import itertools
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving.store_samples import DIGEST, IDENTITY, NAME, PAGE, key, open_arena, store_chain, stored_names
from rekindle.store import Arena, ArenaGeometry, DropReason, OpenLog, PageGeometry
from rekindle.store.check import find_violations
from rekindle_plugins.contract.errors import StoreError, StoreFullError

BIG_PAGE = PageGeometry(rank_bytes=3000, ranks=2, page_tokens=5)


def make(directory: Path, slots: int = 8, page: PageGeometry = PAGE) -> ArenaGeometry:
    """An arena with the chain a-b-c-d, closed again."""
    arena, catalog, _ = open_arena(directory, slots, page)
    store_chain(catalog, *"abcd")
    arena.close()
    return arena.geometry


def flip(path: Path, *bits: int) -> None:
    data = bytearray(path.read_bytes())
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_slots_lie_on_their_boundaries_and_do_not_overlap() -> None:
    for page, alignment in ((PAGE, 64), (BIG_PAGE, 4096)):
        geometry = ArenaGeometry(page, 9)
        parts = [geometry.slot_offset(slot, rank) for slot in range(9) for rank in range(page.ranks)]
        assert all(geometry.slot_offset(slot, 0) % alignment == 0 for slot in range(9))
        assert all(after - before >= page.rank_bytes for before, after in itertools.pairwise(parts))
        assert parts[-1] + page.rank_bytes <= geometry.file_bytes
        with pytest.raises(StoreError):
            geometry.slot_offset(9, 0)


def test_a_reopened_arena_holds_what_was_published(tmp_path: Path) -> None:
    arena, catalog, report = open_arena(tmp_path)
    assert (report.kept, report.messages) == (0, ())
    slots = store_chain(catalog, *"abcd")
    catalog.pin(slots[2])
    entries = [catalog.entry(slot) for slot in slots]
    arena.close()
    _, catalog, report = open_arena(tmp_path, slots=99)
    assert (report.kept, report.dropped_total, report.set_aside) == (4, 0, None)
    assert [catalog.entry(slot) for slot in slots] == entries
    assert catalog.counters().slot_count == 8


def test_a_whole_record_can_be_written_at_once(tmp_path: Path) -> None:
    arena, catalog, _ = open_arena(tmp_path)
    entry = catalog.entry(store_chain(catalog, "a")[0])
    arena.clear_record(entry.slot)
    assert not arena.is_committed(entry.slot)
    arena.write_record(entry)
    assert arena.read_record(entry.slot) == entry
    assert arena.is_committed(entry.slot)


@pytest.mark.parametrize("block", [0, 4096])
def test_one_damaged_header_is_repaired_from_the_other(tmp_path: Path, block: int) -> None:
    make(tmp_path)
    for bit in range(0, 128 * 8, 37):
        flip(tmp_path / NAME, block * 8 + bit)
        arena, _, report = open_arena(tmp_path)
        arena.close()
        assert report.kept == 4
        assert "damaged" in report.messages[0]
    assert open_arena(tmp_path)[2].messages == ()


def test_an_arena_with_both_headers_damaged_is_set_aside(tmp_path: Path) -> None:
    for number in (1, 2):
        make(tmp_path)
        damaged = tmp_path / NAME
        flip(damaged, 8 * 20, 8 * 4196)
        arena, _, report = open_arena(tmp_path)
        arena.close()
        assert report.kept == 0
        assert report.set_aside == tmp_path / f"{NAME}.damaged-{number}"
        assert "both headers are damaged" in report.messages[0]
        assert report.set_aside.exists()


def test_an_arena_of_another_identity_or_page_geometry_is_set_aside(tmp_path: Path) -> None:
    make(tmp_path)
    foreign = DIGEST[:16] + bytes(16)
    arena, _, report = open_arena(tmp_path, digest=foreign)
    arena.close()
    assert report.set_aside is not None
    assert DIGEST.hex() in report.messages[0]
    _, _, report = open_arena(tmp_path, page=BIG_PAGE, digest=foreign)
    assert report.set_aside is not None
    assert "its pages are" in report.messages[0]


def test_a_damaged_identity_area_is_written_anew(tmp_path: Path) -> None:
    make(tmp_path)
    flip(tmp_path / NAME, 8192 * 8 + 3)
    arena, _, report = open_arena(tmp_path)
    assert report.kept == 4
    assert "identity area" in report.messages[0]
    assert os.pread(arena.fd, len(IDENTITY), 8192) == IDENTITY.encode()


def test_a_long_identity_has_room(tmp_path: Path) -> None:
    text = "x" * 70_000
    geometry = ArenaGeometry.fitting(PAGE, text, 200_000)
    assert geometry is not None
    assert geometry.file_bytes <= 200_000
    arena = Arena.open(tmp_path / NAME, DIGEST, text, geometry, OpenLog())
    assert os.pread(arena.fd, 70_000, 8192) == text.encode()


def test_any_flipped_bit_of_a_record_drops_it_and_its_descendants_only(tmp_path: Path) -> None:
    geometry = make(tmp_path)
    clean = (tmp_path / NAME).read_bytes()
    dice = random.Random(5)
    for _ in range(150):
        slot = dice.randrange(4)
        bit = dice.choice([*range(64), *range(24 * 8, PAGE.record_bytes * 8)])
        (tmp_path / NAME).write_bytes(clean)
        flip(tmp_path / NAME, (geometry.records_offset + slot * PAGE.record_bytes) * 8 + bit)
        arena, catalog, report = open_arena(tmp_path)
        assert stored_names(catalog, "abcd") == "abcd"[:slot]
        assert report.dropped[DropReason.DAMAGED] == 1
        assert report.dropped.get(DropReason.ORPHAN, 0) == 3 - slot
        assert find_violations(catalog) == []
        arena.close()


def test_random_damage_anywhere_never_stops_an_arena_from_opening(tmp_path: Path) -> None:
    geometry = make(tmp_path)
    clean = (tmp_path / NAME).read_bytes()
    dice = random.Random(6)
    for _ in range(100):
        (tmp_path / NAME).write_bytes(clean)
        begin = dice.choice([0, 4080, 8170, geometry.records_offset])
        damage = dice.randbytes(dice.randrange(1, 400))
        with (tmp_path / NAME).open("r+b") as file:
            file.seek(begin + dice.randrange(200))
            file.write(damage)
        arena, catalog, _ = open_arena(tmp_path)
        assert find_violations(catalog) == []
        catalog.clear()
        store_chain(catalog, *"abcd")
        arena.close()


def test_a_copied_record_does_not_count_in_another_slot(tmp_path: Path) -> None:
    geometry = make(tmp_path)
    size, data = PAGE.record_bytes, bytearray((tmp_path / NAME).read_bytes())
    begin = geometry.records_offset
    data[begin + 5 * size : begin + 6 * size] = data[begin : begin + size]
    (tmp_path / NAME).write_bytes(data)
    assert open_arena(tmp_path)[2].dropped == {DropReason.DAMAGED: 1}


def test_of_two_records_of_one_page_the_more_recently_used_is_kept(tmp_path: Path) -> None:
    arena, catalog, _ = open_arena(tmp_path)
    first = catalog.entry(store_chain(catalog, *"abcd")[0])
    fields = {**first.__dict__, "slot": 6, "last_use": first.last_use + 99}
    arena.write_record(type(first)(**fields))
    arena.close()
    _, catalog, report = open_arena(tmp_path)
    assert report.dropped == {DropReason.DUPLICATE: 1}
    assert catalog.lookup(key("a")) == 6
    assert stored_names(catalog, "abcd") == "abcd"


def test_records_that_are_each_others_parents_are_dropped(tmp_path: Path) -> None:
    arena, catalog, _ = open_arena(tmp_path)
    slots = store_chain(catalog, *"abcd")
    for slot, parent in ((slots[1], "d"), (slots[0], "a")):
        fields = {**catalog.entry(slot).__dict__, "parent": key(parent)}
        arena.write_record(type(catalog.entry(slot))(**fields))
    arena.close()
    _, catalog, report = open_arena(tmp_path)
    assert report.dropped == {DropReason.ORPHAN: 4}
    assert catalog.counters().free == 8


def test_a_truncated_tail_loses_only_the_pages_that_lay_in_it(tmp_path: Path) -> None:
    geometry = make(tmp_path, page=BIG_PAGE)
    for size, kept in (
        (geometry.slot_offset(3) + 8191, "abc"),
        (geometry.slot_offset(2), "ab"),
        (geometry.records_offset + PAGE.record_bytes, ""),
        (4096, ""),
    ):
        os.truncate(tmp_path / NAME, size)
        arena, catalog, report = open_arena(tmp_path, page=BIG_PAGE)
        assert stored_names(catalog, "abcd") == kept
        assert os.fstat(arena.fd).st_size == geometry.file_bytes
        assert any("lost its tail" in message for message in report.messages)
        arena.close()
    os.truncate(tmp_path / NAME, 100)
    assert open_arena(tmp_path, page=BIG_PAGE)[2].set_aside is not None


def test_punched_holes_are_reserved_again(tmp_path: Path) -> None:
    geometry = make(tmp_path, slots=100, page=BIG_PAGE)
    data = (tmp_path / NAME).read_bytes()
    with (tmp_path / NAME).open("r+b") as file:
        file.truncate(0)
        file.write(data[: geometry.pages_offset])
        file.truncate(len(data))
    arena, _, report = open_arena(tmp_path, page=BIG_PAGE)
    assert report.kept == 4
    assert os.fstat(arena.fd).st_blocks * 512 >= geometry.file_bytes


@pytest.fixture
def tiny_tmpfs(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_file_system_is_told_and_nothing_is_left_behind(tiny_tmpfs: Path) -> None:
    with pytest.raises(StoreFullError, match="store_size"):
        open_arena(tiny_tmpfs, slots=100, page=BIG_PAGE)
    assert list(tiny_tmpfs.iterdir()) == []
    assert open_arena(tiny_tmpfs, slots=8, page=BIG_PAGE)[2].kept == 0


def test_what_was_set_aside_is_deleted_when_the_fresh_arena_needs_its_room(tiny_tmpfs: Path) -> None:
    make(tiny_tmpfs, slots=20, page=BIG_PAGE)
    flip_in_place(tiny_tmpfs / NAME, 20, 4116)
    arena, _, report = open_arena(tiny_tmpfs, slots=20, page=BIG_PAGE)
    arena.close()
    assert report.set_aside is None
    assert "was deleted" in report.messages[-1]
    assert [file.name for file in tiny_tmpfs.iterdir()] == [NAME]


def flip_in_place(path: Path, *offsets: int) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))


def test_a_tail_that_cannot_be_extended_again_is_told(tmp_path: Path) -> None:
    geometry = make(tmp_path, page=BIG_PAGE)
    os.truncate(tmp_path / NAME, geometry.slot_offset(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (geometry.file_bytes - 1, hard))
    try:
        with pytest.raises(StoreFullError):
            open_arena(tmp_path, page=BIG_PAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / NAME).stat().st_size == geometry.slot_offset(2)
    assert open_arena(tmp_path, page=BIG_PAGE)[2].kept == 2
