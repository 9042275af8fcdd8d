"""A foreign engine, Hugging Face transformers' continuous batching, under a plugin that is not part of Rekindle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from driving import until
from transformers_driving import (
    BLOCK,
    ENGINE,
    PLUGIN,
    TransformersEngine,
    TransformersPod,
    complete_tokens,
    make_model,
    prompt_of,
)

pytestmark = [pytest.mark.transformers, pytest.mark.timeout(300)]

SHARED = prompt_of(100, 3 * BLOCK)
"""A system prompt, so to say: the beginning of several sessions."""
MAX_TOKENS = 150
PROMPTS = [
    [*SHARED, *prompt_of(1, 100)],
    [*SHARED, *prompt_of(2, BLOCK)],
    [*SHARED, *prompt_of(3, BLOCK + 1)],
    prompt_of(4, 7),
]
"""Of several lengths, with and without a common beginning, ending at, before and behind a page's end."""
SMALL_CACHE = {"num_blocks": 40, "max_batch_tokens": 64}
"""Less than what a few of the sessions need together."""


@dataclass(frozen=True)
class Ground:
    """What all tests stand on."""

    python: str
    model: Path
    expected: list[list[int]]
    """What an uninterrupted engine without Rekindle answers to each of PROMPTS."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    python = os.environ.get("TRANSFORMERS_PYTHON", "")
    if not Path(python).is_file():
        reason = f"TRANSFORMERS_PYTHON {python!r} is no interpreter" if python else "TRANSFORMERS_PYTHON is not set"
        if os.environ.get("REKINDLE_REQUIRE_TRANSFORMERS") == "1":
            pytest.fail(f"{reason}, and REKINDLE_REQUIRE_TRANSFORMERS=1 asks for it")
        pytest.skip(f"{reason}: `make test-transformers` sets it")
    model = make_model(python, tmp_path_factory.mktemp("model"), seed=0)
    with TransformersPod(python) as pod:
        engine = pod.engine(model, plugin=False).start()
        return Ground(python, model, [engine.ask(prompt, MAX_TOKENS).tokens for prompt in PROMPTS])


@pytest.fixture
def pod(ground: Ground, request: pytest.FixtureRequest) -> Iterator[TransformersPod]:
    """A pod with a sidecar that serves; no engine has been started."""
    failed = request.session.testsfailed
    with TransformersPod(ground.python) as pod:
        pod.sidecar.start()
        yield pod
        if request.session.testsfailed > failed:
            for name, text in pod.logs().items():
                print(f"--- {name}\n{text}")


def cut_off(engine: TransformersEngine, seen: int) -> list[list[int]]:
    """Starts all sessions, kills the engine when each client has seen `seen` tokens, and returns what they have."""
    answers = [engine.stream(prompt, MAX_TOKENS) for prompt in PROMPTS]
    for answer in answers:
        answer.when(seen)
    engine.kill()
    tokens = [answer.cut() for answer in answers]
    assert all(seen <= len(part) < MAX_TOKENS for part in tokens), "it was to be killed in the middle"
    return tokens


def go_on(engine: TransformersEngine, so_far: list[list[int]]) -> tuple[list[list[int]], list[int | None]]:
    """All sessions to their end, at once: the whole answers, and what the engine found of each in its cache."""
    answers = [
        engine.stream([*prompt, *tokens], MAX_TOKENS - len(tokens))
        for prompt, tokens in zip(PROMPTS, so_far, strict=True)
    ]
    whole = [tokens + answer.finish().tokens for tokens, answer in zip(so_far, answers, strict=True)]
    return whole, [answer.cached_tokens for answer in answers]


def test_sessions_cut_by_a_kill_go_on_with_the_same_tokens_and_no_committed_page_lost(
    pod: TransformersPod, ground: Ground
) -> None:
    engine = pod.engine(ground.model).start()
    so_far = cut_off(engine, seen=40)
    assert pod.sidecar.when_released().last_recovery is None or pod.sidecar.recovery().pages_unsaved == 0
    engine.start()
    recovery = pod.sidecar.recovery()
    whole = [[*prompt, *tokens] for prompt, tokens in zip(PROMPTS, so_far, strict=True)]
    pages = {tuple(t[:end]) for t in whole for end in range(BLOCK, complete_tokens(len(t)) + 1, BLOCK)}
    assert recovery.pages_restored >= len(pages)
    assert recovery.tokens_restored == recovery.pages_restored * BLOCK
    assert recovery.pages_rejected == {}
    answers, cached = go_on(engine, so_far)
    assert answers == ground.expected
    # Everything that was complete is there; what is computed again is less than a page, and the last token.
    assert cached == [complete_tokens(len(tokens)) for tokens in whole]


def test_an_engine_of_other_weights_gets_nothing_and_the_field_is_named(
    pod: TransformersPod, ground: Ground, tmp_path: Path
) -> None:
    engine = pod.engine(ground.model).start()
    assert engine.ask(PROMPTS[0], MAX_TOKENS).tokens == ground.expected[0]
    pod.sidecar.when_idle()
    engine.kill()
    pod.sidecar.when_released()
    other = pod.engine(make_model(ground.python, tmp_path / "other", seed=1)).start()
    recovery = pod.sidecar.recovery()
    assert recovery.pages_restored == 0
    assert [text.partition(":")[0] for text in recovery.mismatches] == ["model_files"]
    answer = other.ask(PROMPTS[0], MAX_TOKENS)
    assert answer.cached_tokens == 0
    assert answer.tokens != ground.expected[0]


def test_an_absent_or_late_sidecar_costs_no_answer_and_what_is_live_is_announced(
    pod: TransformersPod, ground: Ground
) -> None:
    pod.sidecar.terminate()
    engine = pod.engine(ground.model).start()
    assert [engine.ask(prompt, MAX_TOKENS).tokens for prompt in PROMPTS] == ground.expected
    pod.sidecar.start()
    pod.sidecar.engine()
    # The engine forgets the page that a request's last token completes: it was handed to nobody.
    whole = [[*prompt, *tokens] for prompt, tokens in zip(PROMPTS, ground.expected, strict=True)]
    pages = {tuple(t[:end]) for t in whole for end in range(BLOCK, complete_tokens(len(t) - 1) + 1, BLOCK)}
    until("the live pages to be stored", lambda: pod.sidecar.store().pages >= len(pages))
    pod.sidecar.kill()
    assert engine.ask(PROMPTS[0], MAX_TOKENS).tokens == ground.expected[0]
    assert "rekindle is off" not in engine.output()


def test_a_cache_that_is_too_small_evicts_and_reuses_pages_and_the_answers_stay_right(
    pod: TransformersPod, ground: Ground
) -> None:
    engine = pod.engine(ground.model, **SMALL_CACHE).start()
    for _ in range(2):
        answers, _ = go_on(engine, [[] for _ in PROMPTS])
        assert answers == ground.expected
        engine.ask(prompt_of(9, 20 * BLOCK), 40)
    so_far = cut_off(engine, seen=30)
    engine.start()
    recovery = pod.sidecar.recovery()
    stored = pod.sidecar.store().pages
    assert 0 < recovery.pages_restored < SMALL_CACHE["num_blocks"] < stored
    for _ in range(2):
        answers, _ = go_on(engine, so_far)
        assert answers == ground.expected
        engine.ask(prompt_of(9, 20 * BLOCK), 40)
    assert "rekindle is off" not in engine.output()


RESET_WITH_RESERVED = """
import json
from rekindle_transformers.driver import TransformersDriver
from rekindle_transformers.restore_target import LedgerTarget
driver = TransformersDriver()
driver.start("")
shim = driver._protection._shim
shim._target = target = LedgerTarget(shim.parts, shim._restored)
reserved = list(target.reserve(5))
driver.reset_cache()
free = target.free_pages()
given = list(target.reserve(free))
target.release(reserved)
print(json.dumps([shim.parts.usable_pages, free, reserved, given, target.free_pages()]))
"""


def test_pages_that_a_late_copier_may_write_into_stay_reserved_when_the_engine_resets_its_cache(
    ground: Ground, tmp_path: Path
) -> None:
    environ = {**os.environ, "REKINDLE_RUN_DIR": str(tmp_path)}
    command = [ground.python, "-c", RESET_WITH_RESERVED]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    usable, free, reserved, given, free_again = json.loads(done.stdout.splitlines()[-1])
    assert free == usable - 5
    assert not set(reserved) & set(given)
    assert len(set(given)) == free
    assert free_again == 5


def test_a_sidecar_without_transformers_finds_the_plugin_by_its_entry_point(ground: Ground) -> None:
    installed = Path(ground.python).parents[1] / "sidecar"
    script = (
        "import json; from rekindle.backends import discover; from rekindle.cli.engine_command import wired\n"
        "backends = discover(); found = {entry.name: entry for entry in backends.found}['transformers']\n"
        f"command = wired(['python', {str(ENGINE)!r}, '--model', 'm'], backends)\n"
        "twice = wired(command.arguments, backends).arguments\n"
        "print(json.dumps([found.source, found.problem, command.arguments[-2:], twice]))"
    )
    environ = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    source, problem, added, twice = json.loads(done.stdout)
    assert source.startswith("rekindle-transformers ")
    assert problem == ""
    assert added == ["--plugin", PLUGIN]
    assert twice.count("--plugin") == 1
