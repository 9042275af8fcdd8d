"""The arena file is damaged while the sidecar is down: a wrong byte is noticed, and never becomes a wrong token."""

from __future__ import annotations

import os
import random

import pytest
from driving import NanoEngine, Pod, Reference
from driving.arena import StoredPage, arena_paths, find_damage, stored_pages
from driving.reference import chain, prompt

QUESTION = prompt(600)


def with_stopped_sidecar(pod: Pod) -> tuple[NanoEngine, dict[bytes, StoredPage]]:
    """The pages of one question in the store, the engine dead, the sidecar killed."""
    engine = pod.engine()
    engine.ask(QUESTION)
    pod.sidecar.when_idle()
    engine.kill()
    pod.sidecar.when_released()
    pod.sidecar.kill()
    return engine, stored_pages(pod.store_dir)


def flip(page: StoredPage, bit: int) -> None:
    fd = os.open(page.path, os.O_RDWR)
    try:
        offset = page.offset + bit // 8
        os.pwrite(fd, bytes([os.pread(fd, 1, offset)[0] ^ 1 << bit % 8]), offset)
    finally:
        os.close(fd)


@pytest.mark.parametrize("position", [0, 1, 20, 36])
def test_a_flipped_bit_costs_its_page_and_those_behind_it(pod: Pod, reference: Reference, position: int) -> None:
    engine, pages = with_stopped_sidecar(pod)
    key = chain(QUESTION)[position]
    flip(pages[key], random.Random(position).randrange(8 * len(pages[key].data)))
    pod.sidecar.start()
    engine.start()
    answer = engine.ask(QUESTION)
    assert answer.token_ids == reference.tokens(QUESTION)
    assert answer.cached_tokens == position * 16
    assert pod.sidecar.recovery().pages_rejected["checksum"] == 1
    assert pod.sidecar.recovery().pages_restored == position
    pod.sidecar.when_idle()
    assert find_damage(pod.store_dir, reference) == []
    engine.restart()
    assert engine.ask(QUESTION).cached_tokens == 592, "the page was computed and stored anew"


def test_flipped_bits_in_every_page_cost_a_cold_start(pod: Pod, reference: Reference) -> None:
    engine, pages = with_stopped_sidecar(pod)
    for index, page in enumerate(pages.values()):
        flip(page, random.Random(index).randrange(8 * len(page.data)))
    pod.sidecar.start()
    engine.start()
    answer = engine.ask(QUESTION)
    assert answer.token_ids == reference.tokens(QUESTION)
    assert answer.cached_tokens == 0
    pod.sidecar.when_idle()
    assert find_damage(pod.store_dir, reference) == []


def test_a_truncated_arena_keeps_the_pages_that_are_left(pod: Pod, reference: Reference) -> None:
    engine, pages = with_stopped_sidecar(pod)
    middle = sorted(page.offset for page in pages.values())[20]
    os.truncate(arena_paths(pod.store_dir)[0], middle + 100)
    pod.sidecar.start()
    engine.start()
    answer = engine.ask(QUESTION)
    assert answer.token_ids == reference.tokens(QUESTION)
    assert answer.cached_tokens == 20 * 16
    assert any("lost its tail" in message for message in pod.sidecar.store().messages)
    pod.sidecar.when_idle()
    assert find_damage(pod.store_dir, reference) == []


@pytest.mark.parametrize("size", [0, 1, 4096, 30_000])
def test_an_arena_cut_to_almost_nothing_is_a_cold_start(pod: Pod, reference: Reference, size: int) -> None:
    engine, _ = with_stopped_sidecar(pod)
    os.truncate(arena_paths(pod.store_dir)[0], size)
    pod.sidecar.start()
    engine.start()
    answer = engine.ask(QUESTION)
    assert answer.token_ids == reference.tokens(QUESTION)
    assert answer.cached_tokens == 0
    pod.sidecar.when_idle()
    assert find_damage(pod.store_dir, reference) == []


def test_random_bytes_over_the_record_table_never_give_a_wrong_token(pod: Pod, reference: Reference) -> None:
    engine, pages = with_stopped_sidecar(pod)
    first = min(page.offset for page in pages.values())
    source = random.Random(4)
    with arena_paths(pod.store_dir)[0].open("r+b") as file:
        for _ in range(400):
            file.seek(source.randrange(first))
            file.write(source.randbytes(source.randrange(1, 9)))
    pod.sidecar.start()
    engine.start()
    assert engine.ask(QUESTION).token_ids == reference.tokens(QUESTION)
    pod.sidecar.when_idle()
    assert find_damage(pod.store_dir, reference) == []
    engine.restart()
    assert engine.ask(QUESTION).token_ids == reference.tokens(QUESTION)
