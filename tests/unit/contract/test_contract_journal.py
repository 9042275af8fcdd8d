"""The journal: a writer that may be killed or overtaken anywhere, and a reader that believes nothing."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Hashable, Iterator

import pytest
from exploring import Choices, Interleaving, Steps, explore
from hypothesis import given, settings
from hypothesis import strategies as st
from rekindle_plugins.contract import JournalReader, JournalWriter, ProtocolError, Record
from rekindle_plugins.contract.journal import HEADER_BYTES, MAX_BYTES, ROOT, pack_payload, record_bytes
from rekindle_plugins.contract.sharedmem import create_sealed

PAGES = 8
TOKENS = 3
Store = tuple[int, bytes]
"""(offset, bytes): one store into the journal's memory, as the writer makes it."""


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def payload(number: int) -> bytes:
    """A record that tells its own number in every field."""
    return pack_payload(number % PAGES, number, 0, 0, key(number), key(number - 1), [number] * TOKENS)


def number_of(record: Record) -> int:
    """The number of a record, once all its fields agree on it."""
    number = record.epoch
    wanted = Record(number % PAGES, number, 0, 0, key(number), key(number - 1), (number,) * TOKENS)
    assert record == wanted, "a wrong record"
    return number


class Pair:
    """A writer and a reader of one ring."""

    def __init__(self, capacity: int, from_head: bool = True) -> None:
        self.writer = JournalWriter(TOKENS, capacity)
        self.reader = JournalReader(self.writer.fd, PAGES, (TOKENS,), from_head=from_head)
        self.appended = 0

    def append(self, count: int = 1) -> None:
        for _ in range(count):
            self.appended += 1
            self.writer.append(payload(self.appended))

    def patch(self, number: int, offset: int, data: bytes, *, seal: bool = False) -> None:
        """Writes into a record; with `seal` its checksum is made right again."""
        start = HEADER_BYTES + (number - 1) % self.writer.capacity * self.writer.record_bytes
        memory = self.writer._map
        memory[start + offset : start + offset + len(data)] = data
        if seal:
            count = struct.unpack_from("<I", memory, start + 28)[0]
            checksum = zlib.crc32(memory[start + 12 : start + 96 + 4 * count], number)
            memory[start + 8 : start + 12] = checksum.to_bytes(4, "little")

    def set_word(self, index: int, value: int) -> None:
        self.writer._words[index] = value

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair(capacity=8)
    yield made
    made.close()


# -- what is read back -------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, derandomize=True)
@given(capacity=st.integers(1, 9), bursts=st.lists(st.tuples(st.integers(0, 25), st.integers(1, 12)), max_size=8))
def test_every_record_is_read_or_counted_as_lost(capacity: int, bursts: list[tuple[int, int]]) -> None:
    pair = Pair(capacity)
    read: list[int] = []
    lost = 0
    try:
        for count, limit in [*bursts, (0, 100)]:
            pair.append(count)
            drained = pair.reader.drain(limit)
            assert not drained.errors
            read.extend(map(number_of, drained.records))
            lost += drained.lost
        assert read == sorted(set(read))
        assert len(read) + lost == pair.appended
    finally:
        pair.close()


def test_a_new_reader_starts_at_the_head_and_tells_the_writer_so(pair: Pair) -> None:
    pair.append(7)
    assert pair.writer.backlog == 7
    late = JournalReader(pair.writer.fd, PAGES, (TOKENS,))
    assert late.pending == 0
    assert pair.writer.backlog == 0, "an announcer that waits for the backlog to shrink would wait for ever"
    late.close()


# -- a kill between any two stores ---------------------------------------------------------------------------------


def stores_of_append(writer: JournalWriter, data: bytes) -> list[Store]:
    """The stores of a real `append`, in order, without making them; the long one in two, for a kill in its middle."""
    stores: list[Store] = []

    class Words:
        def __setitem__(self, index: int, value: int) -> None:
            stores.append((index * 8, value.to_bytes(8, "little")))

    class Memory:
        def __setitem__(self, where: slice, value: bytes) -> None:
            middle = len(value) // 2 if len(value) > 8 else 0
            if middle:
                stores.append((where.start, value[:middle]))
            stores.append((where.start + middle, value[middle:]))

    words, memory = writer._words, writer._map
    writer._words, writer._map = Words(), Memory()  # type: ignore[assignment]
    try:
        writer.append(data)
    finally:
        writer._words, writer._map = words, memory
    return stores


@pytest.mark.parametrize("already", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("unread", [0, 1, 2, 3])
def test_a_kill_between_any_two_stores_of_append_yields_no_wrong_record(already: int, unread: int) -> None:
    steps = 6
    for killed_after in range(steps + 1):
        pair = Pair(capacity=3)
        pair.append(max(0, already - unread))
        pair.reader.drain(100)
        pair.append(min(already, unread))
        stores = stores_of_append(pair.writer, payload(already + 1))
        assert len(stores) == steps
        for offset, data in stores[:killed_after]:
            pair.writer._map[offset : offset + len(data)] = data
        drained = pair.reader.drain(100)
        assert not drained.errors
        wanted = list(range(already - min(already, unread) + 1, already + 1 + (killed_after == steps)))
        read = list(map(number_of, drained.records))
        assert read == wanted[len(wanted) - len(read) :]
        assert drained.lost == len(wanted) - len(read), "what was overwritten is counted, and nothing else"
        pair.close()


def test_no_order_of_a_writers_stores_and_a_readers_loads_yields_a_wrong_record() -> None:
    appends, capacity = 3, 2

    def writing(pair: Pair) -> Steps:
        for number in range(1, appends + 1):
            for step, (offset, data) in enumerate(stores_of_append(pair.writer, payload(number))):
                pair.writer._map[offset : offset + len(data)] = data
                yield number, step

    def scenario(choices: Choices) -> None:
        pair = Pair(capacity)
        loaded: list[Hashable] = []
        pause = Interleaving(choices, lambda: tuple(loaded), writing(pair))

        class Words:
            def __init__(self, words: memoryview) -> None:
                self._words = words

            def __getitem__(self, index: int) -> int:
                pause.run_some("word")
                loaded.append(self._words[index])
                return int(self._words[index])

            def __setitem__(self, index: int, value: int) -> None:
                self._words[index] = value

            def release(self) -> None:
                self._words.release()

        class Memory:
            """Copies a record in three parts, as a copy that is overtaken might."""

            def __init__(self, memory: object) -> None:
                self._memory = memory

            def __getitem__(self, where: slice) -> bytes:
                parts = b""
                for start, end in ((0, 8), (8, 48), (48, where.stop - where.start)):
                    pause.run_some("copy")
                    parts += self._memory[where.start + start : where.start + end]  # type: ignore[index]
                    loaded.append(hash(parts))
                return parts

            def close(self) -> None:
                self._memory.close()  # type: ignore[attr-defined]

        pair.reader._words = Words(pair.reader._words)  # type: ignore[assignment]
        pair.reader._map = Memory(pair.reader._map)  # type: ignore[assignment]
        try:
            read: list[int] = []
            lost = 0
            for _ in range(3):
                drained = pair.reader.drain(2)
                assert not drained.errors
                read.extend(map(number_of, drained.records))
                lost += drained.lost
                loaded[:] = [(tuple(read), lost)]
            assert len(read) + lost == pair.reader._tail
        finally:
            pair.close()

    assert explore(scenario) > 50


def test_a_slow_reader_of_another_process_reads_no_wrong_record() -> None:
    count = 8_000
    payloads = [payload(number) for number in range(1, count + 1)]
    pair = Pair(capacity=32)
    child = os.fork()
    if child == 0:
        try:
            for one in payloads:
                pair.writer.append(one)
        finally:
            os._exit(0)
    read: list[int] = []
    lost = 0
    is_over = False
    while not is_over or pair.reader.pending:
        is_over = is_over or os.waitpid(child, os.WNOHANG)[0] == child
        drained = pair.reader.drain(16)
        assert not drained.errors
        read.extend(map(number_of, drained.records))
        lost += drained.lost
    assert read == sorted(set(read))
    assert len(read) + lost == count
    assert lost, "the reader was meant to be too slow"
    pair.close()


# -- records that cannot be ----------------------------------------------------------------------------------------

IMPOSSIBLE = {
    "page": (12, struct.pack("<I", PAGES), f"page {PAGES} of {PAGES}"),
    "group": (24, struct.pack("<H", 1), "group 1 with 3 tokens"),
    "token count too low": (28, struct.pack("<I", TOKENS - 1), "group 0 with 2 tokens"),
    "token count beyond the record": (28, struct.pack("<I", 1 << 31), "tokens do not fit"),
    "key is the root": (32, ROOT, "its parent or the root"),
    "key is its parent": (32, key(0), "its parent or the root"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_an_impossible_record_is_an_error_that_says_what_is_wrong(pair: Pair, what: str) -> None:
    offset, data, text = IMPOSSIBLE[what]
    pair.append(2)
    pair.patch(1, offset, data, seal="beyond" not in what)
    drained = pair.reader.drain(10)
    assert [str(error) for error in drained.errors if text in str(error) and "journal record 1" in str(error)]
    assert [number_of(record) for record in drained.records] == [2], "the next record is read all the same"
    assert drained.lost == 0


@pytest.mark.parametrize("offset", [8, 12, 40, 64, 96, 107])
def test_a_changed_byte_is_a_wrong_checksum(pair: Pair, offset: int) -> None:
    pair.append()
    byte = pair.writer._map[HEADER_BYTES + offset]
    pair.patch(1, offset, bytes([byte ^ 1]))
    drained = pair.reader.drain(10)
    assert "checksum is wrong" in str(drained.errors[0])
    assert not drained.records


def test_a_record_with_another_records_number_is_refused(pair: Pair) -> None:
    pair.append(3)
    pair.patch(3, 0, (2).to_bytes(8, "little"))
    drained = pair.reader.drain(10)
    assert [str(error) for error in drained.errors] == ["read journal record 3: it is numbered 2"]


def test_a_record_copied_from_elsewhere_in_the_ring_has_a_wrong_checksum(pair: Pair) -> None:
    """The number starts the checksum, so a stale record cannot pass for a new one."""
    pair.append(2)
    start, size = HEADER_BYTES, pair.writer.record_bytes
    pair.writer._map[start + size + 8 : start + 2 * size] = pair.writer._map[start + 8 : start + size]
    assert "checksum is wrong" in str(pair.reader.drain(10).errors[0])


# -- headers that cannot be ----------------------------------------------------------------------------------------


def test_a_head_that_goes_back_is_an_error_and_reading_goes_on(pair: Pair) -> None:
    pair.append(5)
    pair.reader.drain(10)
    pair.set_word(3, 2)
    assert pair.reader.pending == 0
    assert "went back from 5 to 2" in str(pair.reader.drain(10).errors[0])
    pair.set_word(3, 5)
    assert [number_of(record) for record in pair.reader.drain(10).records] == [3, 4, 5]


@pytest.mark.parametrize("head", [1 << 32, 1 << 63, (1 << 64) - 1])
def test_an_absurd_head_costs_one_ring_of_records_and_no_more(pair: Pair, head: int) -> None:
    pair.append(3)
    pair.set_word(3, head)
    drained = pair.reader.drain(4)
    assert len(drained.records) + len(drained.errors) <= 4
    assert not drained.records
    for _ in range(3):
        pair.reader.drain(4)
    assert pair.reader.pending == 0
    assert pair.reader.heartbeat().steps_started == 0


def journal_memory(
    magic: bytes = b"RKJRNL01", record: int = record_bytes(TOKENS), capacity: int = 4, size: int | None = None
) -> int:
    fd = create_sealed("test", HEADER_BYTES + 4 * record_bytes(TOKENS) if size is None else size)
    os.pwrite(fd, struct.pack("<8sIIII", magic, record, capacity, TOKENS, 0)[: size if size is not None else 24], 0)
    return fd


@pytest.mark.parametrize(
    "header",
    [
        {"magic": b"RKFENCE1"},
        {"capacity": 0},
        {"capacity": 5},
        {"capacity": 0xFFFFFFFF},
        {"capacity": 0xFFFFFFFF, "size": 1 << 50},
        {"capacity": MAX_BYTES // record_bytes(TOKENS) + 1, "size": 1 << 30},
        {"record": 0},
        {"record": 64},
        {"record": 0xFFFFFFC0},
        {"size": 0},
        {"size": 8},
        {"size": HEADER_BYTES - 1},
        {"size": HEADER_BYTES},
    ],
    ids=str,
)
def test_memory_that_is_no_journal_is_refused(header: dict[str, int]) -> None:
    fd = journal_memory(**header)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="journal"):
        JournalReader(fd, PAGES, (TOKENS,))
    os.close(fd)


def test_memory_of_an_odd_size_is_read_as_far_as_the_records_reach() -> None:
    fd = journal_memory(size=HEADER_BYTES + 4 * record_bytes(TOKENS) + 3)
    reader = JournalReader(fd, PAGES, (TOKENS,))
    assert reader.drain(10).records == []
    reader.close()
    os.close(fd)


def test_a_journal_of_very_long_pages_has_fewer_records_and_is_read() -> None:
    tokens = 1 << 14
    writer = JournalWriter(tokens)
    reader = JournalReader(os.dup(writer.fd), PAGES, (tokens,))
    assert writer.capacity * record_bytes(tokens) <= MAX_BYTES
    for number in range(writer.capacity + 2):
        writer.append(pack_payload(number % PAGES, 0, 0, 0, b"k" * 32, ROOT, range(tokens)))
    drained = reader.drain(5)
    assert (len(drained.records), drained.lost) == (5, 2)
    reader.close()
    writer.close()


def test_reading_a_ring_of_holes_makes_little_memory_of_it() -> None:
    """Of each record its number is looked at, and nothing else."""
    tokens = 1 << 14
    writer = JournalWriter(tokens)
    fd = os.dup(writer.fd)
    reader = JournalReader(fd, PAGES, (tokens,))
    writer._words[3] = 1 << 40  # its head
    while reader.pending:
        assert reader.drain(128).records == []
    assert os.fstat(fd).st_blocks * 512 <= (writer.capacity + 8) * os.sysconf("SC_PAGE_SIZE")
    reader.close()
    writer.close()


def test_memory_that_could_be_taken_away_is_refused() -> None:
    size = HEADER_BYTES + 4 * record_bytes(TOKENS)
    unsealed = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, size)
    with pytest.raises(ProtocolError, match="not sealed"):
        JournalReader(unsealed, PAGES, (TOKENS,))
    os.close(unsealed)
    end, other_end = os.pipe()
    with pytest.raises(ProtocolError, match="no memfd"):
        JournalReader(end, PAGES, (TOKENS,))
    os.close(end)
    os.close(other_end)


def test_the_generation_and_the_heartbeat_are_seen_by_the_reader(pair: Pair) -> None:
    pair.writer.raise_generation()
    pair.writer.step_started(3)
    pair.writer.step_finished(2)
    pair.writer.account(1500, 4)
    beat = pair.reader.heartbeat()
    assert pair.reader.generation == 1
    assert (beat.steps_started, beat.steps_finished, beat.outstanding) == (1, 1, 2)
    assert (beat.shim_ns, beat.committed) == (1500, 4)
    assert beat.last_step_ns >= beat.last_start_ns > 0
    assert beat.last_sign_ns == beat.last_step_ns
    pair.writer.tell_outstanding(0)
    pair.writer.step_started(0)
    pair.writer.step_started(0)
    pair.writer.step_finished(0, under_way=1)
    beat = pair.reader.heartbeat()
    assert (beat.steps_started, beat.steps_finished, beat.outstanding) == (3, 2, 0)
    assert beat.has_work
    begun = pair.reader.heartbeat()
    assert begun.last_sign_ns == max(begun.last_start_ns, begun.last_step_ns) >= 0


def test_a_record_knows_when_it_was_first_seen_and_not_only_when_it_was_read(pair: Pair) -> None:
    assert pair.reader.oldest_seen_at is None
    pair.append(3)
    first = pair.reader.oldest_seen_at
    assert first is not None
    early = pair.reader.drain(1).records
    pair.append(2)
    assert pair.reader.oldest_seen_at == first, "two of the first are still there"
    late = pair.reader.drain(10).records
    assert [record.seen_at == first for record in early + late] == [True, True, True, False, False]
    assert all(record.seen_at > first for record in late[2:])
    assert pair.reader.oldest_seen_at is None
