"""The engine is killed with SIGKILL while it answers; a fresh one goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from driving import Sidecar, until
from driving.arena import stored_pages
from driving.process import stop_and_wait
from vllm_driving import ANSWER_S, BLOCK, Launcher, Session, VllmEngine, VllmPod, complete_tokens, tokens_of

pytestmark = [pytest.mark.vllm, pytest.mark.core, pytest.mark.timeout(240)]

SHARED = tokens_of(100, 3 * BLOCK)
"""A system prompt, so to say: the beginning of several sessions."""


def some_sessions() -> list[Session]:
    """Of several lengths, with and without a common beginning, ending at, before and behind a page's end."""
    return [
        Session([*SHARED, *tokens_of(1, 200)], 1016),
        Session([*SHARED, *tokens_of(2, BLOCK)], 1006),
        Session([*SHARED, *tokens_of(3, BLOCK + 1)], 1026),
        Session(tokens_of(4, 7), 1021),
    ]


def cut_off(engine: VllmEngine, sessions: list[Session], seen: int) -> None:
    """Kills the engine when every client has seen `seen` tokens at least."""
    for session in sessions:
        session.go_on(engine)
    for session in sessions:
        assert session.stream is not None
        session.stream.when(seen)
    engine.kill()
    for session in sessions:
        session.cut()
        assert seen <= len(session.tokens) < session.max_tokens, "it was to be killed in the middle"


def pages_of(sessions: list[Session]) -> set[tuple[int, ...]]:
    """The complete pages of what the clients have seen, each by its whole prefix."""
    whole = [[*session.prompt, *session.tokens] for session in sessions]
    return {tuple(tokens[:end]) for tokens in whole for end in range(BLOCK, complete_tokens(len(tokens)) + 1, BLOCK)}


def test_sessions_cut_by_a_kill_go_on_with_the_same_tokens_and_no_committed_page_lost(
    pod: VllmPod, llama: Path
) -> None:
    sessions = some_sessions()
    engine = pod.engine(llama).start()
    expected = engine.references(sessions)
    for life in (1, 2):
        cut_off(engine, sessions, seen=20)
        assert pod.sidecar.when_released().last_recovery is not None
        assert pod.sidecar.recovery().pages_unsaved == 0
        engine.start()
        recovery = pod.sidecar.recovery()
        assert recovery.number == life
        assert recovery.pages_restored >= len(pages_of(sessions))
        assert recovery.tokens_restored == recovery.pages_restored * BLOCK
        assert recovery.pages_rejected == {}
        assert recovery.died_instance != recovery.started_instance
        assert recovery.down_s is not None
        assert recovery.restore_s is not None
    stranger = engine.ask(sessions[0].prompt, 4, cache_salt="stranger")
    assert stranger.cached_tokens == 0, "another tenant's pages were found"
    hits_before = engine.metric("prefix_cache_hits_total")
    lengths = [len(session.prompt) + len(session.tokens) for session in sessions]
    for session in sessions:
        session.go_on(engine)
    assert [session.finish() for session in sessions] == expected
    # Everything that was complete is there; what is computed again is less than a page, and the last token.
    assert [session.cached_tokens for session in sessions] == list(map(complete_tokens, lengths))
    assert engine.metric("prefix_cache_hits_total") - hits_before == sum(map(complete_tokens, lengths))
    assert engine.metric("external_prefix_cache_hits_total") == 0, "they were to be there before the first request"


def test_a_hang_is_told_of_and_a_pause_or_idleness_is_none(launcher: Launcher, llama: Path) -> None:
    timeout_s = 2.0
    with VllmPod(launcher, hang_timeout=f"{timeout_s}s") as pod:
        sidecar = pod.sidecar
        sidecar.start()
        engine = pod.engine(llama).start()
        session = Session(tokens_of(5, 200), 3000)
        expected = engine.ask(session.prompt, 200, cache_salt="reference").tokens
        sidecar.when("the engine to be idle", lambda s: s.engines and not s.engines[0].outstanding)
        never_hung_for(sidecar, 2 * timeout_s)
        stream = engine.stream(session.prompt, session.max_tokens)
        stream.when(30)
        engine.post("/pause?mode=keep&clear_cache=false")  # a cleared cache would void the pages
        never_hung_for(sidecar, 2 * timeout_s)
        engine.post("/resume")
        stream.when(len(stream.tokens) + 30)
        stop_and_wait(sidecar.engine().pid)
        hung = sidecar.when("the hang to be told of", lambda s: s.engines[0].hung_s is not None, 30.0).engines[0]
        assert hung.note.startswith("it hangs: no step for ")
        assert hung.outstanding == 1
        engine.kill()
        stream.hang_up()
        engine.start()
        count = min(len(stream.tokens), 150)
        again = engine.ask([*session.prompt, *stream.tokens[:count]], 200 - count)
        assert [*stream.tokens[:count], *again.tokens] == expected
        assert again.cached_tokens == complete_tokens(200 + count)


def never_hung_for(sidecar: Sidecar, seconds: float) -> None:
    """Asks all the time, until the sidecar itself says that so much time has passed."""
    began_s = sidecar.status().uptime_s
    told: list[str] = []

    def over() -> bool:
        status = sidecar.status()
        told.extend(engine.note for engine in status.engines if engine.hung_s is not None)
        return status.uptime_s > began_s + seconds

    until("the time to pass", over, 60.0)
    assert told == []


def test_a_sidecar_killed_under_load_costs_neither_an_error_nor_a_page(pod: VllmPod, llama: Path) -> None:
    sessions = some_sessions()
    engine = pod.engine(llama).start()
    expected = engine.references(sessions)
    for session in sessions:
        session.go_on(engine)
    for session in sessions:
        assert session.stream is not None
        session.stream.when(10)
    pod.sidecar.kill()
    for session in sessions:
        assert session.stream is not None
        session.stream.when(40)
    pod.sidecar.start()
    assert [session.finish() for session in sessions] == expected
    pod.sidecar.engine()
    pod.when_stored()
    assert pod.sidecar.store().pages >= len(pages_of(sessions)), "not all live pages were announced again"
    engine.kill()
    engine.start()
    for session in sessions:
        whole = [*session.prompt, *session.tokens]
        assert engine.ask(whole, 2).cached_tokens == complete_tokens(len(whole))


def test_a_request_that_is_aborted_commits_nothing_that_another_is_still_computing(pod: VllmPod, llama: Path) -> None:
    prompt = tokens_of(9, 2000)
    engine = pod.engine(llama, async_scheduling=True, max_num_batched_tokens=8192, num_gpu_blocks_override=1024).start()
    expected = engine.ask(prompt, 20, cache_salt="reference").tokens
    pod.sidecar.engine()
    before = [engine.stream(tokens_of(seed, 3900), 40) for seed in range(10, 14)]
    until("the others to run", lambda: pod.sidecar.engine().outstanding, ANSWER_S)
    first = engine.stream(prompt, 20)
    second = engine.stream(prompt, 20)
    # One of the two computes; the other finds its pages as soon as they are given to it, and goes away before they
    # are computed: the step before is still running then.
    until("both to be scheduled", lambda: pod.sidecar.engine().outstanding == 6, ANSWER_S)
    second.hang_up()
    for stream in before:
        stream.finish()
    assert first.finish().tokens == expected
    pod.when_stored()
    # The same tokens have the same KV under every salt, but for what the order of additions makes of it.
    contents: dict[tuple[int, ...], list[bytes]] = {}
    for page in stored_pages(pod.store_dir).values():
        contents.setdefault(page.tokens, []).append(page.data)
    pairs = [pair for pair in contents.values() if len(pair) == 2]
    assert len(pairs) == (len(prompt) + len(expected) - 1) // BLOCK
    for pair in pairs:
        one, other = (np.frombuffer(data, np.float32) for data in pair)
        assert np.abs(one - other).max() < 1e-3 * np.abs(one).max()
