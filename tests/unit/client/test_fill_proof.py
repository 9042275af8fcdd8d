"""What proves that a copier is gone: its process' end, not that of one of its descriptors."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
from rekindle_plugins.client.fills import FillPage, Fills
from rekindle_plugins.contract import Fence


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_fill_is_abandoned_when_the_copiers_process_is_gone_and_not_when_its_lifeline_is_closed(
    process: subprocess.Popen[bytes],
) -> None:
    fence = Fence.create(4)
    fills = Fills(fence, 5.0)
    watch: dict[int, Callable[[], None]] = {}
    ours, copiers = socket.socketpair()
    pidfd = os.pidfd_open(process.pid)
    fills.add_lifeline(ours.detach(), watch, pidfd)
    assert list(watch) == [pidfd]
    copiers.close()  # as a process does that is being killed, while the driver still stops its copies
    fills.begin([FillPage(1, 0, 0, b"k" * 32)])
    looked = threading.Semaphore(0)
    abandoning = threading.Thread(target=fills.abandon, args=(looked.release, watch, "copier-lost"))
    abandoning.start()
    for _ in range(2):  # before, and after its first wait
        assert looked.acquire(timeout=10)
    assert fills.poll() == []
    process.kill()
    abandoning.join(10)
    [result] = fills.poll()
    assert [reason for _, reason in result.failed] == ["copier-lost"]
    assert fence.epoch(1) == 1
    assert watch == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)
    fence.close()
