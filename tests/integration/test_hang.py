"""A hang is work outstanding while the heartbeat stands still: it is told of, and nothing else is taken for one."""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import NanoEngine, Pod, Proxied, Reference, Sidecar, until
from driving.reference import prompt
from nano_engine.client import Completion

TIMEOUT_S = 1.0
WARM_UP_TOKENS = 40
"""More than the steps in which an engine warms up: after them the timeout itself counts."""


@pytest.fixture
def watched(make_pod: Callable[..., Pod]) -> Pod:
    pod = make_pod(http=":0", hang_timeout=f"{TIMEOUT_S}s")
    pod.sidecar.start()
    return pod


def livez(sidecar: Sidecar) -> tuple[int, list[str]]:
    try:
        with urllib.request.urlopen(f"{sidecar.http_url}/engine/livez", timeout=20) as answer:
            code, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        code, body = error.code, error.read()
    said = json.loads(body)
    assert said["alive"] == (code == 200)
    return code, said["hung"]


def until_hung(sidecar: Sidecar) -> str:
    (text,) = until("the hang to be told of", lambda: livez(sidecar)[1], 30.0)
    return text


def never_hung_for(sidecar: Sidecar, seconds: float) -> None:
    """Asks all the time, until the sidecar itself says that so much time has passed."""
    began_s = sidecar.status().uptime_s
    seen: list[object] = []

    def over() -> bool:
        status = sidecar.status()
        seen.extend(engine.note for engine in status.engines if engine.hung_s is not None)
        return status.uptime_s > began_s + seconds

    until("the time to pass", over, 60.0)
    assert seen == []
    assert livez(sidecar) == (200, [])


def stream_in_the_middle(engine: NanoEngine, question: list[int]) -> Completion:
    stream = engine.stream(question, 3000)
    for _ in stream:
        if len(stream.token_ids) >= WARM_UP_TOKENS:
            break
    return stream


def test_an_engine_stopped_in_the_middle_of_an_answer_fails_its_probe_until_it_goes_on(
    watched: Pod, reference: Reference
) -> None:
    sidecar = watched.sidecar
    assert livez(sidecar) == (200, []), "no engine"
    engine = watched.engine(pages=1024)
    assert livez(sidecar) == (200, []), "an idle engine"
    with stream_in_the_middle(engine, prompt(50)) as stream:
        engine.freeze()
        text = until_hung(sidecar)
        assert "1 requests outstanding" in text
        assert livez(sidecar)[0] == 503
        (hung,) = sidecar.engines()
        assert hung.hung_s is not None
        assert hung.hung_s > TIMEOUT_S
        assert hung.note.startswith("it hangs: no step for ")
        assert hung.pid == engine.pid
        with urllib.request.urlopen(f"{sidecar.http_url}/metrics", timeout=20) as answer:
            assert 'rekindle_engine_hung{backend="nano"} 1.0' in answer.read().decode()
        engine.thaw()
        until("the alarm to end", lambda: livez(sidecar) == (200, []))
        assert next(iter(stream)) == reference.tokens(prompt(50), 60)[len(stream.token_ids) - 1]
    assert "event=engine_hung" in sidecar.output()
    assert "event=engine_goes_on" in sidecar.output()


def test_an_engine_that_hangs_in_a_requests_first_step_is_found(
    watched: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle before: the work it hangs at has to be seen though no step of it was ever finished."""
    trap = tmp_path / "trap"
    monkeypatch.setenv("HANGS_AT", str(trap))
    engine = watched.engine(plugin="odd_plugins.hanging:connect")
    engine.ask(prompt(20), WARM_UP_TOKENS)
    watched.sidecar.when("the engine to be idle", lambda s: s.engines and not s.engines[0].outstanding)
    os.mkfifo(trap)
    answers: list[Completion] = []
    asking = threading.Thread(target=lambda: answers.append(engine.ask(prompt(30, 1), 4)))
    asking.start()
    try:
        assert "1 steps under way" in until_hung(watched.sidecar)
    finally:
        writer = os.open(trap, os.O_RDWR)  # which does not wait for a reader
        trap.unlink()
        os.close(writer)
        asking.join(30.0)
    assert len(answers[0].token_ids) == 4
    until("the alarm to end", lambda: livez(watched.sidecar) == (200, []))


def test_an_idle_engine_that_is_stopped_raises_no_alarm(watched: Pod, reference: Reference) -> None:
    engine = watched.engine()
    engine.ask(prompt(20), WARM_UP_TOKENS)
    engine.freeze()
    never_hung_for(watched.sidecar, 3 * TIMEOUT_S)
    engine.thaw()
    assert engine.ask(prompt(50)).token_ids == reference.tokens(prompt(50))
    assert livez(watched.sidecar) == (200, [])


def test_an_idle_engine_that_is_stopped_is_found_by_the_first_request_through_the_proxy(
    make_pod: Callable[..., Pod], reference: Reference
) -> None:
    proxied = Proxied(make_pod, http=":0", hang_timeout=f"{TIMEOUT_S}s").start()
    sidecar = proxied.pod.sidecar
    proxied.engine.ask(prompt(20), WARM_UP_TOKENS)
    sidecar.when("the engine to be idle", lambda s: s.engines and not s.engines[0].outstanding)
    proxied.engine.freeze()
    never_hung_for(sidecar, 2 * TIMEOUT_S)
    client = proxied.stream(prompt(50), 20)
    text = until("the hang to be told of", lambda: " ".join(livez(sidecar)[1]), 60.0)
    assert text.endswith("and its server does not answer")
    assert livez(sidecar)[0] == 503
    proxied.engine.thaw()
    assert client.finished().text == bytes(reference.tokens(prompt(50), 20)).decode()
    until("the alarm to end", lambda: livez(sidecar) == (200, []), 60.0)


def test_a_sidecar_that_was_stopped_for_longer_blames_nobody(watched: Pod) -> None:
    """The engine is stopped, too, and wakes up after the sidecar: what both have slept through counts for nothing."""
    engine = watched.engine(pages=1024)
    with stream_in_the_middle(engine, prompt(50)) as stream:
        engine.freeze()
        watched.sidecar.freeze()
        clock = watched.engine(plugin=False)  # another engine's start takes a while
        clock.ask(prompt(600), 400)
        watched.sidecar.thaw()
        assert livez(watched.sidecar) == (200, [])
        engine.thaw()
        next(iter(stream))
        never_hung_for(watched.sidecar, 2 * TIMEOUT_S)


def test_slow_steps_are_no_hang(make_pod: Callable[..., Pod]) -> None:
    """Each of these steps takes much longer than usual, and less than the timeout."""
    pod = make_pod(http=":0", hang_timeout="30s")
    pod.sidecar.start()
    engine = pod.engine(pages=512, step_tokens=2048, layers=4)
    engine.ask(prompt(20), WARM_UP_TOKENS)
    seen = []
    asking = threading.Thread(target=lambda: [engine.ask(prompt(1500, seed), 1) for seed in range(3)])
    asking.start()
    while asking.is_alive():
        seen += [engine.outstanding for engine in pod.sidecar.engines() if engine.hung_s is None]
        assert livez(pod.sidecar) == (200, [])
    assert any(seen), "it was seen at work"


def test_the_watch_can_be_switched_off(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(http=":0", hang_timeout="0")
    pod.sidecar.start()
    engine = pod.engine(pages=1024)
    with stream_in_the_middle(engine, prompt(50)):
        engine.freeze()
        never_hung_for(pod.sidecar, 2 * TIMEOUT_S)
        engine.thaw()
