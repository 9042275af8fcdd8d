"""Whatever comes to the attach socket is refused with its typed error, and the engine beside it is not disturbed."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from driving import NanoEngine, Pod, Reference, until
from driving.arena import find_damage, stored_pages
from driving.impostor import PAGE_BYTES, PAGE_TOKENS, PAGES, Impostor, Wire, packet
from driving.reference import chain, prompt
from rekindle_plugins.contract.journal import pack_payload
from rekindle_plugins.contract.plugin import API_VERSION, PluginInfo

PLUGIN = PluginInfo("impostor", "1", "no engine").to_json()
KEY, OTHER_KEY, ROOT = b"k" * 32, b"o" * 32, bytes(32)


@pytest.fixture(scope="module")
def house() -> Iterator[Pod]:
    """One pod for all tests here. The engine's arena is made small first, so that there is room for an impostor's."""
    with Pod(store_size="8MiB") as pod:
        pod.sidecar.start()
        engine = pod.engine()
        engine.kill()
        pod.sidecar.when_released()
        pod.sidecar.kill()
        pod.sidecar.settings["store_size"] = "64MiB"
        pod.sidecar.start()
        yield pod


@pytest.fixture(scope="module")
def engine(house: Pod) -> NanoEngine:
    engine = house.engine()
    engine.ask(prompt(200))
    with closing(Impostor(house.sidecar.run_dir)) as impostor:
        impostor.attach()  # its arena stays open from now on
    return engine


@pytest.fixture
def healthy(house: Pod, engine: NanoEngine, reference: Reference) -> Iterator[NanoEngine]:
    """An engine that is served all the while; afterwards the sidecar holds as many descriptors as before."""
    until("the engine to be alone", lambda: [e.backend for e in house.sidecar.status().engines] == ["nano"])
    house.sidecar.ready_copiers()
    pid, before = house.sidecar.pid, house.sidecar.fd_count()
    yield engine
    question = prompt(100, time.monotonic_ns())
    assert engine.ask(question).token_ids == reference.tokens(question)
    assert "is not attached" not in engine.output(), "the healthy engine lost its sidecar"
    until("the engine to be alone", lambda: [e.backend for e in house.sidecar.status().engines] == ["nano"])
    until("its last page to be stored", lambda: chain(question)[-1] in stored_pages(house.store_dir))
    until("the sidecar's descriptors to be as before", lambda: house.sidecar.fd_count() <= before)
    assert house.sidecar.process is not None
    assert house.sidecar.process.is_running
    assert house.sidecar.pid == pid
    damage = find_damage(house.store_dir, reference)
    assert [text for text in damage if "its key is not" not in text] == [], "the impostor's keys are its own affair"


def refused(pod: Pod, code: str, act: Callable[[], object]) -> None:
    """`act` makes the sidecar count one refusal more of this kind."""
    before = pod.sidecar.status().refused
    act()
    after = until("the refusal to be counted", lambda: (now := pod.sidecar.status().refused) != before and now)
    assert after == {**before, code: before.get(code, 0) + 1}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"x", "protocol"),
        (random.Random(500).randbytes(500), "protocol"),
        (b"GET / HTTP/1.1\r\nHost: pod\r\n\r\n", "protocol"),
        (b"RKDL", "protocol"),
        (packet({"type": "hello"}, magic=b"RKXX"), "protocol"),
        (packet({"type": "hello"}, major=2), "version"),
        (packet({"type": "hello"}, major=0), "version"),
        (packet({"type": "hello"}), "protocol"),
        (packet({"type": "nonsense"}), "protocol"),
        (packet(["hello"]), "protocol"),
        (packet({"type": ["hello"]}), "protocol"),
        (packet({"type": "hello"})[:-1], "protocol"),
        (packet({"type": "hello"}) + b"\xff\xfe", "protocol"),
        (struct.pack("<4sHHHH", b"RKDL", 1, 0, 0, 0) + b"[" * 100_000, "protocol"),
        (struct.pack("<4sHHHH", b"RKDL", 1, 0, 0, 0) + b" " * 150_000, "protocol"),
        (packet({"type": "hello"}, fd_count=3), "protocol"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}B {value[:6]!r}",
)
def test_a_packet_that_is_no_hello_is_refused(house: Pod, healthy: NanoEngine, data: bytes, code: str) -> None:
    with closing(Wire(house.sidecar.run_dir)) as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        refused(house, code, lambda: wire.send_raw(data))
        refusal = wire.until_hung_up()
        assert refusal is not None
        assert refusal["code"] == code
        if code == "version":
            assert "peer speaks contract" in refusal["message"]
            assert "we speak {}.{}".format(*API_VERSION) in refusal["message"]


@pytest.mark.parametrize("count", [1, 100, 250])
def test_descriptors_that_nobody_asked_for_are_closed(house: Pod, healthy: NanoEngine, count: int) -> None:
    with closing(Wire(house.sidecar.run_dir)) as wire:
        data = packet({"type": "plan", "plan_id": 1, "max_pages": 1}, fd_count=count)
        refused(house, "protocol", lambda: wire.send_raw(data, [0] * count))
        assert wire.until_hung_up() is not None


@pytest.mark.parametrize(
    ("type_", "fields"),
    [
        ("plan", {"plan_id": 1, "max_pages": 10}),
        ("fill", {"fill_id": 1, "pages": []}),
        ("welcome", {"state": "x", "stored_pages": 1, "restore_budget_s": 1}),
        ("filled", {"fill_id": 1, "pages": []}),
    ],
)
def test_a_message_before_the_hello_is_refused(
    house: Pod, healthy: NanoEngine, type_: str, fields: dict[str, object]
) -> None:
    with closing(Wire(house.sidecar.run_dir)) as wire:
        refused(house, "protocol", lambda: wire.send(type_, **fields))
        assert wire.until_hung_up() is not None


def pipe_end() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def unsealed(size: int) -> int:
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd


LEADER_FDS: dict[str, Callable[[Impostor], list[int]]] = {
    "none": lambda i: [],
    "one missing": lambda i: i.leader_fds[:2],
    "one too many": lambda i: [*i.leader_fds, i.wake],
    "a pipe for the journal": lambda i: [pipe_end(), i.fence.fd, i.wake],
    "a file for the journal": lambda i: [os.open(__file__, os.O_RDONLY), i.fence.fd, i.wake],
    "an unsealed journal": lambda i: [unsealed(1 << 20), i.fence.fd, i.wake],
    "the fence for the journal": lambda i: [i.fence.fd, i.fence.fd, i.wake],
    "the journal for the fence": lambda i: [i.journal.fd, i.journal.fd, i.wake],
    "an unsealed fence": lambda i: [i.journal.fd, unsealed(1 << 20), i.wake],
    "a file for the wake-up": lambda i: [i.journal.fd, i.fence.fd, os.open(__file__, os.O_RDONLY)],
    "a pipe for the wake-up": lambda i: [i.journal.fd, i.fence.fd, pipe_end()],
}


@pytest.fixture
def impostor(house: Pod, healthy: NanoEngine) -> Iterator[Impostor]:
    with closing(Impostor(house.sidecar.run_dir)) as impostor:
        yield impostor


@pytest.mark.parametrize("fds", LEADER_FDS.values(), ids=LEADER_FDS.keys())
def test_a_leader_with_wrong_descriptors_is_refused(
    house: Pod, impostor: Impostor, fds: Callable[[Impostor], list[int]]
) -> None:
    refused(house, "protocol", lambda: impostor.leader.send("hello", fds(impostor), **impostor.leader_hello()))
    assert impostor.leader.until_hung_up() is not None


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"page_count": 0}, "protocol"),
        ({"page_count": PAGES + 1}, "protocol"),
        ({"page_count": 1 << 40}, "protocol"),
        ({"page_count": True}, "protocol"),
        ({"group_tokens": []}, "protocol"),
        ({"group_tokens": [PAGE_TOKENS + 64]}, "protocol"),
        ({"group_tokens": ["4"]}, "protocol"),
        ({"identity": {}}, "identity"),
        ({"identity": {"model": 1}}, "identity"),
        ({"identity": {f"f{i}": "x" for i in range(100)}}, "identity"),
        ({"purge": "all"}, "protocol"),
        ({"purge": [{}]}, "identity"),
        ({"generation": -1}, "protocol"),
        ({"serving": [1]}, "protocol"),
        ({"serving": {"a": "x" * 5000}}, "protocol"),
        ({"role": "king"}, "protocol"),
        ({"instance": ""}, "protocol"),
        ({"instance": "a\nb"}, "protocol"),
        ({"plugin": {}}, "protocol"),
        ({"plugin": {**PLUGIN, "version": "\ud800"}}, "protocol"),
        ({"plugin": {**PLUGIN, "name": "Not A Word"}}, "protocol"),
        ({"plugin": {**PLUGIN, "capabilities": 7}}, "protocol"),
        ({"plugin": {**PLUGIN, "api_version": [2, 0]}}, "version"),
        ({"plugin": {**PLUGIN, "api_version": [1, 9]}}, "version"),
        ({"world_size": 0}, "protocol"),
        ({"world_size": 1 << 20}, "protocol"),
    ],
    ids=str,
)
def test_a_leader_that_says_what_cannot_be_is_refused(
    house: Pod, impostor: Impostor, wrong: dict[str, object], code: str
) -> None:
    hello = impostor.leader_hello() | wrong
    refused(house, code, lambda: impostor.leader.send("hello", impostor.leader_fds, **hello))
    assert impostor.leader.until_hung_up() is not None


@pytest.mark.parametrize(
    ("region", "code"),
    [
        (lambda i: i.region(size=2 * PAGES * PAGE_BYTES).to_json(), "geometry"),
        (lambda i: i.region(pages=2 * PAGES).to_json(), "geometry"),
        (lambda i: i.region(stride=PAGE_BYTES // 2).to_json(), "geometry"),
        (lambda i: i.region(stride=1 << 60).to_json(), "geometry"),
        (lambda i: i.region().to_json() | {"sizes": [PAGES * PAGE_BYTES] * 2}, "protocol"),
        (lambda i: i.region().to_json() | {"sizes": []}, "geometry"),
        (lambda i: i.region().to_json() | {"kind": "cuda"}, "geometry"),
        (lambda i: i.region().to_json() | {"rank": 5}, "protocol"),
        (lambda i: i.region().to_json() | {"groups": None}, "geometry"),
        (lambda i: None, "geometry"),
    ],
)
def test_a_region_that_cannot_be_is_refused(
    house: Pod, impostor: Impostor, region: Callable[[Impostor], object], code: str
) -> None:
    hello = impostor.common("rank") | {"region": region(impostor)}
    refused(house, code, lambda: impostor.rank.send("hello", [impostor.memory], **hello))
    assert impostor.rank.until_hung_up() is not None


def test_a_leader_and_a_rank_that_contradict_each_other_are_refused(house: Pod, impostor: Impostor) -> None:
    impostor.leader.send("hello", impostor.leader_fds, **impostor.leader_hello())
    hello = impostor.common("rank") | {"region": impostor.region(pages=PAGES - 1).to_json()}
    refused(house, "geometry", lambda: impostor.rank.send("hello", [impostor.memory], **hello))


def test_a_second_leader_is_refused_and_the_first_one_stays(house: Pod, impostor: Impostor) -> None:
    impostor.attach()
    with closing(Wire(house.sidecar.run_dir)) as second:
        refused(house, "protocol", lambda: second.send("hello", impostor.leader_fds, **impostor.leader_hello()))
        assert "has a leader already" in second.until_hung_up()["message"]
    assert len(house.sidecar.status().engines) == 2


RECORDS = {
    "a page that is not there": pack_payload(PAGES, 0, 0, 0, KEY, ROOT, range(PAGE_TOKENS)),
    "a group that is not there": pack_payload(0, 0, 7, 0, KEY, ROOT, range(PAGE_TOKENS)),
    "too few tokens": pack_payload(0, 0, 0, 0, KEY, ROOT, range(PAGE_TOKENS - 1)),
    "more tokens than fit": pack_payload(0, 0, 0, 0, KEY, ROOT, ())[:18]
    + struct.pack("<I", 60_000)
    + pack_payload(0, 0, 0, 0, KEY, ROOT, range(PAGE_TOKENS))[22:],
    "its own parent": pack_payload(0, 0, 0, 0, KEY, KEY, range(PAGE_TOKENS)),
    "the root's key": pack_payload(0, 0, 0, 0, ROOT, KEY, range(PAGE_TOKENS)),
}


@pytest.mark.parametrize("payload", RECORDS.values(), ids=RECORDS.keys())
def test_an_impossible_record_is_dropped_and_the_next_one_counts(
    house: Pod, impostor: Impostor, payload: bytes
) -> None:
    impostor.attach()
    impostor.journal.append(payload)
    impostor.journal.append(pack_payload(1, 0, 0, 0, OTHER_KEY, ROOT, range(PAGE_TOKENS)))
    os.eventfd_write(impostor.wake, 1)
    pages = until("the good record to be copied", lambda: copied(house))
    assert pages.rejected == {"bad-record": 1}


def copied(house: Pod) -> object:
    pages = next(e.pages for e in house.sidecar.status().engines if e.backend == "impostor")
    return pages if pages.checkpointed + pages.already_stored else None


def test_a_record_with_a_wrong_checksum_is_dropped(house: Pod, impostor: Impostor) -> None:
    impostor.attach()
    impostor.journal.append(pack_payload(0, 0, 0, 0, KEY, ROOT, range(PAGE_TOKENS)))
    offset = 4096 + 40
    os.pwrite(impostor.journal.fd, b"\xff", offset)
    impostor.journal.append(pack_payload(1, 0, 0, 0, OTHER_KEY, ROOT, range(PAGE_TOKENS)))
    os.eventfd_write(impostor.wake, 1)
    assert until("the good record to be copied", lambda: copied(house)).rejected == {"bad-record": 1}


def test_a_journal_whose_head_jumps_about_harms_nobody(house: Pod, impostor: Impostor) -> None:
    impostor.attach()
    for head in (1 << 63, 5, (1 << 64) - 1, 0, 3):
        os.pwrite(impostor.journal.fd, head.to_bytes(8, "little"), 24)
        os.eventfd_write(impostor.wake, 1)
        house.sidecar.status()
    os.pwrite(impostor.journal.fd, b"\xff" * 64, 40)  # the heartbeat
    assert len(house.sidecar.status().engines) == 2


@pytest.mark.parametrize(
    "row",
    [
        [PAGES, 0, 0, KEY.hex()],
        [-1, 0, 0, KEY.hex()],
        [0, -1, 0, KEY.hex()],
        [0, 1 << 64, 0, KEY.hex()],
        [0, 0, 9, KEY.hex()],
        [0, 0, 0, "ab"],
        [0, 0, 0, "not hex"],
        [0.5, 0, 0, KEY.hex()],
        ["0", 0, 0, KEY.hex()],
        [0, 0, 0],
        {"page": 0},
        None,
    ],
    ids=str,
)
def test_a_fill_row_that_cannot_be_is_refused(house: Pod, impostor: Impostor, row: object) -> None:
    impostor.attach()
    refused(house, "protocol", lambda: impostor.leader.send("fill", fill_id=1, pages=[row]))
    assert impostor.leader.until_hung_up() is not None


@pytest.mark.parametrize(
    ("type_", "fields"),
    [
        ("hello", {}),
        ("welcome", {"state": "x", "stored_pages": 1, "restore_budget_s": 1}),
        ("copier", {"rank": 0}),
        ("reset", {"identity": {}}),
        ("report", {"restored": 10**30, "tokens": 0, "rejected": {}, "seconds": 0}),
        ("report", {"restored": 0, "tokens": 0, "rejected": {"\ud800": 1}, "seconds": 0}),
    ],
)
def test_a_message_out_of_order_ends_the_connection(
    house: Pod, impostor: Impostor, type_: str, fields: dict[str, object]
) -> None:
    impostor.attach()
    fields = impostor.leader_hello() if type_ == "hello" else fields
    code = "identity" if type_ == "reset" else "protocol"
    refused(house, code, lambda: impostor.leader.send(type_, **fields))
    house.sidecar.status()


def test_a_rank_that_speaks_is_refused(house: Pod, impostor: Impostor) -> None:
    impostor.attach()
    refused(house, "protocol", lambda: impostor.rank.send("plan", plan_id=1, max_pages=1))


def test_a_fill_of_what_is_not_stored_is_answered_and_nothing_is_written(house: Pod, impostor: Impostor) -> None:
    impostor.attach()
    impostor.leader.send("fill", fill_id=7, pages=[[0, 0, 0, "ee" * 32]])
    while (message := impostor.leader.answer()) is not None and message["type"] != "filled":
        pass
    assert message is not None
    assert message["pages"] == [[0, "not-stored"]]
    assert os.pread(impostor.memory, PAGE_BYTES, 0) == bytes(PAGE_BYTES)


def test_a_peer_that_never_reads_costs_a_bounded_amount(house: Pod, impostor: Impostor) -> None:
    impostor.attach()
    memory = house.sidecar.rss_bytes()
    impostor.leader.sock.settimeout(0.5)
    rows = [[0, 0, 0, "ee" * 32]] * 500

    def flood() -> None:
        try:
            for _ in range(20_000):
                impostor.leader.send("fill", fill_id=1, pages=rows)
        except OSError:
            return
        raise AssertionError("the sidecar went on reading from a peer that reads nothing")

    flood()
    assert house.sidecar.rss_bytes() - memory < 128 << 20


def test_a_peer_that_says_nothing_is_dropped_after_a_while(house: Pod, healthy: NanoEngine) -> None:
    wires = [Wire(house.sidecar.run_dir) for _ in range(20)]
    for wire in wires:
        assert wire.answer() is None
        wire.close()


def test_peers_beyond_the_limit_are_refused(house: Pod, healthy: NanoEngine) -> None:
    wires: list[Wire] = []
    while len(wires) < 300:
        with suppress(BlockingIOError):  # the queue of those who wait to be accepted is full
            wires.append(Wire(house.sidecar.run_dir))
    until("some to be refused", lambda: house.sidecar.status().refused.get("protocol", 0) > 40)
    for wire in wires:
        wire.close()


ANOTHER_USER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.settimeout(10)
sock.connect(sys.argv[1])
sys.stdout.buffer.write(sock.recv(100000))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_peer_of_another_user_is_refused(house: Pod, healthy: NanoEngine) -> None:
    path = house.sidecar.run_dir / "attach.sock"
    call = [sys.executable, "-I", "-S", "-c", ANOTHER_USER, str(path)]
    closed = subprocess.run(call, capture_output=True, check=False)
    assert b"PermissionError" in closed.stderr, "the run directory is ours alone"
    house.directory.chmod(0o755)
    house.sidecar.run_dir.chmod(0o755)
    path.chmod(0o666)  # even so, the kernel tells who it is
    refused(house, "peer_refused", lambda: subprocess.run(call, capture_output=True, check=True))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_is_allowed_can_reach_the_socket() -> None:
    with Pod(allow_uids="0,65534") as pod:
        pod.directory.chmod(0o755)
        pod.sidecar.start()
        call = [sys.executable, "-I", "-S", "-c", ANOTHER_USER, str(pod.sidecar.run_dir / "attach.sock")]
        answer = subprocess.run(call, capture_output=True, check=False)
        assert answer.returncode == 0, answer.stderr
        assert b"refuse" not in answer.stdout
