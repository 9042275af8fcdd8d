"""Engines come and go: the sidecar is afterwards what it was before."""

from __future__ import annotations

import os
import signal

from driving import Pod, Reference, until
from driving.arena import find_damage
from driving.process import mappers, shared_memory
from driving.reference import prompt

CYCLES = 20


def test_twenty_engines_leave_no_descriptor_no_memory_and_no_process_behind(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    memories = []
    fds = rss = 0
    for cycle in range(CYCLES + 3):
        question = prompt(300, cycle % 5)
        assert engine.ask(question).token_ids == reference.tokens(question)
        memories.append(shared_memory(engine.pid, "nano-kv-cache"))
        engine.kill()
        pod.sidecar.when_released()
        until("no copier to be left", lambda: pod.sidecar.copiers() == [])
        if cycle == 2:  # the first ones fill caches
            fds, rss = pod.sidecar.fd_count(), pod.sidecar.rss_bytes()
        engine.start()
    engine.kill()
    pod.sidecar.when_released()
    until("no copier to be left", lambda: pod.sidecar.copiers() == [])
    until("its descriptors to be back where they were", lambda: pod.sidecar.fd_count() <= fds, 5)
    grown = pod.sidecar.rss_bytes() - rss
    print(f"{CYCLES} cycles: {fds} descriptors, {grown >> 10} KiB more memory")
    assert grown < 4 << 20
    assert [mappers(memory) for memory in memories] == [[]] * len(memories)
    assert find_damage(pod.store_dir, reference) == []


def test_a_few_copiers_leave_nothing_behind(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    engine.ask(prompt(300))
    (copier,) = pod.sidecar.ready_copiers()
    fds = pod.sidecar.fd_count()
    engine_fds = len(os.listdir(f"/proc/{engine.pid}/fd"))
    for _ in range(5):
        os.kill(copier, signal.SIGKILL)
        before = copier
        (copier,) = until(
            "another copier", lambda before=before: [pid for pid in pod.sidecar.copiers() if pid != before]
        )
        pod.sidecar.ready_copiers()
    until("its descriptors to be back where they were", lambda: pod.sidecar.fd_count() <= fds, 5)
    until("the engine's, too", lambda: len(os.listdir(f"/proc/{engine.pid}/fd")) <= engine_fds, 5)
    assert engine.ask(prompt(300)).token_ids == reference.tokens(prompt(300))


def test_ten_sidecars_leave_the_engine_as_it_was(pod: Pod, reference: Reference) -> None:
    engine = pod.engine()
    engine.ask(prompt(300))
    pod.sidecar.ready_copiers()
    fds = len(os.listdir(f"/proc/{engine.pid}/fd"))
    for _ in range(10):
        pod.sidecar.kill()
        pod.sidecar.start()
        pod.sidecar.engine()
        pod.sidecar.ready_copiers()
    until("the engine's descriptors", lambda: len(os.listdir(f"/proc/{engine.pid}/fd")) <= fds, 5)
    assert engine.ask(prompt(300)).token_ids == reference.tokens(prompt(300))
