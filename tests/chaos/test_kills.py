"""Seeded kills of engine, copier and keeper at random instants, under load: nobody is given a wrong token, ever.

    pytest tests/chaos --kills 1000 --chaos-seed 7 -s

After every kill: no session stuck, every page of the arena whole and the KV of its tokens, every process where it
belongs. The seed decides who dies and after what pause; what the machine does in between is the machine's.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter

import pytest
from driving import NanoEngine, Pod, Reference, Sidecar, until
from driving.arena import find_damage, stored_pages
from driving.process import proceed, session_members, state, stop_and_wait
from driving.reference import POOL_PAGES

from chaos.sessions import STUCK_S, Address, Session

SESSIONS = 5
CHECK_EVERY = 4
"""Kills between two looks at the whole arena."""
LIFE_S = (0.02, 0.7)
"""The pause before the next blow."""


class Chaos:
    """One run: the pod, the sessions, and the blows."""

    def __init__(self, pod: Pod, seed: int) -> None:
        self.pod = pod
        self.random = random.Random(seed)
        self.reference = Reference()
        self.address = Address()
        self.engine: NanoEngine = pod.engine(start=False, pages=72, max_running=8)
        self.sidecar: Sidecar = pod.sidecar
        self.sessions = [Session(index, seed, self.address, self.reference) for index in range(SESSIONS)]
        self.blows: Counter[str] = Counter()

    def start(self) -> None:
        self.sidecar.start()
        self._start_engine()
        for session in self.sessions:
            session.start()

    def _start_engine(self) -> None:
        self.engine.start()
        self.address.publish(self.engine.url)

    # -- blows -------------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """One SIGKILL, to one or two of the three kinds."""
        blow = self.random.choices(
            [self.kill_engine, self.kill_copier, self.kill_keeper, self.kill_engine_at_start, self.kill_both],
            [8, 4, 3, 1, 1],
        )[0]
        blow()
        self.blows[blow.__name__] += 1

    def kill_engine(self) -> None:
        self.engine.kill()
        self._start_engine()

    def kill_engine_at_start(self) -> None:
        self.engine.kill()
        self.engine.start(wait=False)
        time.sleep(self.random.uniform(0.0, 0.4))
        self.kill_engine()

    def kill_copier(self) -> None:
        copiers = self.sidecar.copiers()
        if copiers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(copiers), signal.SIGKILL)

    def kill_keeper(self) -> None:
        self.sidecar.kill()
        time.sleep(self.random.choice((0.0, 0.0, self.random.uniform(0.0, 0.3))))
        self.sidecar.start(wait=self.random.random() < 0.5)

    def kill_both(self) -> None:
        """In either order, so close that neither has seen the other die."""
        first, second = self.random.sample([self.engine.kill, self.sidecar.kill], 2)
        first()
        second()
        self.sidecar.start(wait=False)
        self._start_engine()

    def stall(self) -> None:
        """Stops a copier or the keeper for a moment."""
        victims = [self.sidecar.pid, *self.sidecar.copiers()]
        pid = self.random.choice(victims)
        try:
            stop_and_wait(pid)
            time.sleep(self.random.uniform(0.0, 0.25))
        except ProcessLookupError:
            return
        finally:
            proceed(pid)
        self.blows["stall"] += 1

    # -- what must hold ----------------------------------------------------------------------------------------

    def check_sessions(self) -> None:
        problems = [problem for session in self.sessions for problem in session.problems]
        assert not problems, "\n".join(problems)
        for session in self.sessions:
            assert session.is_alive(), f"{session.name} has ended"
            assert session.stuck_s < STUCK_S, f"{session.name} has waited {session.stuck_s:.0f} s for an answer"

    def check_arena(self) -> None:
        if self.reference.page_count > POOL_PAGES - 1024:
            self.reference.forget_pages()
        assert find_damage(self.pod.store_dir, self.reference) == []

    def check_end(self) -> None:
        """Undisturbed for a moment, everything comes to rest: attached, copied, one copier, no page held."""
        self.address.close()
        for session in self.sessions:
            session.join(STUCK_S)
            assert not session.is_alive(), f"{session.name} does not end"
        self.sidecar.wait_until_serving()
        self.sidecar.when("the engine to be attached", lambda s: [e.state for e in s.engines] == ["running"], 20)
        self.sidecar.when_idle()
        self.sidecar.ready_copiers(1)
        self.check_arena()
        self.engine.when_metric("requests_running", 0)
        self.engine.when_metric("requests_waiting", 0)
        self.engine.when_metric("pages_used", 0)
        members = session_members(self.sidecar.pid)
        assert len(members) == 2, f"the keeper and one copier, not {[(pid, state(pid)) for pid in members]}"
        assert len(stored_pages(self.pod.store_dir)) == self.sidecar.store().pages


@pytest.mark.timeout(0)
def test_no_kill_at_any_instant_costs_a_token_or_tears_a_page(kills: int, chaos_seed: int) -> None:
    print(f"--chaos-seed {chaos_seed} --kills {kills}")
    with Pod(store_size="6MiB", copier_timeout="1s", fill_timeout="1s", restore_budget="3s") as pod:
        chaos = Chaos(pod, chaos_seed)
        chaos.start()
        started = time.monotonic()
        for number in range(kills):
            time.sleep(chaos.random.uniform(*LIFE_S) ** 2)
            if chaos.random.random() < 0.2:
                chaos.stall()
            chaos.strike()
            chaos.check_sessions()
            if number % CHECK_EVERY == 0:
                chaos.check_arena()
        took = time.monotonic() - started
        until("every session to go on", lambda: all(session.stuck_s < 5 for session in chaos.sessions), STUCK_S)
        chaos.check_end()
    report(chaos, kills, took)


def report(chaos: Chaos, kills: int, took: float) -> None:
    figures = [session.figures for session in chaos.sessions]
    answers, tokens, resumed = (sum(getattr(f, name) for f in figures) for name in ("answers", "tokens", "resumed"))
    cached = sum(f.cached_tokens for f in figures) / max(1, sum(f.prompt_tokens for f in figures))
    print(f"{kills} kills in {took:.0f} s, {kills * 60 / took:.0f} a minute: {dict(chaos.blows)}")
    print(f"{answers} answers, {tokens} tokens, {resumed} streams resumed, {cached:.0%} of prompt tokens from cache")
