"""The bench of one check: folders, sidecars, engines and prompts, and the end of all of them.

Every engine that a check makes is looked at when the check is over: whatever it was about, no page may have changed
under its epoch, and no shim may have turned itself off where nobody broke it.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import rekindle_plugins
from rekindle_plugins.contract.adapter import RUN_DIR_VARIABLE
from rekindle_plugins.contract.driver import Answer, EngineFacts

import rekindle
from rekindle.conformance.child.orders import Orders
from rekindle.conformance.engine import Engine, Event
from rekindle.conformance.outcome import BrokenPromiseError, Limits, require
from rekindle.conformance.probe import Manner, Probe
from rekindle.conformance.sidecar import PATIENT, Sidecar
from rekindle.conformance.subject import Subject

SHARED_MEMORY = Path("/dev/shm")
PROMPT_PAGES = 3
ROOT = "0" * 64
MIN_PAGES, MIN_CONTEXT_PAGES = 12, 6
NO_ORDERS = Orders()


class Reference:
    """What the engine answers when there is no sidecar at all: that is right, and everything else is compared with it.

    Shared by all checks of a run, so that an answer is computed once.
    """

    def __init__(self, subject: Subject, limits: Limits) -> None:
        self._bench = Bench(subject, limits, self)
        self._engines: dict[str, Engine] = {}
        self._answers: dict[tuple[str, tuple[int, ...], int], tuple[int, ...]] = {}

    @property
    def facts(self) -> EngineFacts:
        facts = self._engine("").facts
        assert facts is not None
        return facts

    def tokens(self, prompt: Sequence[int], count: int, change: str = "") -> tuple[int, ...]:
        asked = (change, tuple(prompt), count)
        if asked not in self._answers:
            self._answers[asked] = self._engine(change).ask(prompt, count).tokens
        return self._answers[asked]

    def _engine(self, change: str) -> Engine:
        if change not in self._engines:
            engine = self._bench.make_engine()
            facts = engine.start(change)
            _check_facts(facts)
            self._engines[change] = engine
        return self._engines[change]

    def close(self) -> None:
        self._bench.close()


class Bench:
    """Use as a context manager around one check."""

    def __init__(self, subject: Subject, limits: Limits, reference: Reference) -> None:
        self.subject = subject
        self.limits = limits
        self.reference = reference
        # Short: a Unix socket's path may have 107 bytes.
        self.home = Path(tempfile.mkdtemp(prefix="rk-"))
        memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else self.home
        self.store_dir = Path(tempfile.mkdtemp(prefix="rk-", dir=memory))
        self.run_dir = self.home / "run"
        self.engines: list[Engine] = []
        self._broken: list[Engine] = []
        self._sidecars: list[Sidecar | Probe] = []

    # -- parts -------------------------------------------------------------------------------------------------

    def sidecar(self, flags: Sequence[str] = PATIENT) -> Sidecar:
        """A real one, serving."""
        sidecar = Sidecar(self.home, self.store_dir, self.limits, flags)
        self._sidecars.append(sidecar)
        sidecar.start()
        return sidecar

    def probe(self, manner: Manner | None = None) -> Probe:
        """An instrumented one, listening."""
        probe = Probe(self.run_dir, manner)
        self._sidecars.append(probe)
        return probe.start()

    @property
    def probes(self) -> list[Probe]:
        return [sidecar for sidecar in self._sidecars if isinstance(sidecar, Probe)]

    def engine(self, change: str = "", orders: Orders = NO_ORDERS) -> Engine:
        """A fresh engine, started."""
        engine = self.make_engine(orders)
        engine.start(change)
        return engine

    def make_engine(self, orders: Orders = NO_ORDERS) -> Engine:
        """A process in which nothing has been started yet."""
        log = self.home / f"engine-{len(self.engines)}.log"
        subject = self.subject
        engine = Engine(subject.python, subject.driver, self._environment(), log, orders, self.limits)
        self.engines.append(engine)
        if orders.fail_at is not None or orders.host_version is not None:
            self._broken.append(engine)
        return engine

    def _environment(self) -> dict[str, str]:
        """As in production: the run directory, and what the engine needs on its path; ours beside it, for the child."""
        ours = self.home / "path"
        if not ours.exists():
            ours.mkdir()
            for package in (rekindle, rekindle_plugins):
                (ours / package.__name__).symlink_to(Path(package.__path__[0]).resolve(), target_is_directory=True)
        places = [str(ours), str(self.subject.folder or ""), os.environ.get("PYTHONPATH", "")]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("REKINDLE_")}
        path = os.pathsep.join(place for place in places if place)
        return {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", RUN_DIR_VARIABLE: str(self.run_dir)}

    # -- prompts -----------------------------------------------------------------------------------------------

    @property
    def facts(self) -> EngineFacts:
        return self.reference.facts

    @property
    def answer_tokens(self) -> int:
        """How many tokens are asked for: enough to fill a page that the answer began."""
        return self.facts.page_tokens + 2

    def prompt(self, seed: int, pages: int = PROMPT_PAGES) -> list[int]:
        """`pages` whole pages and half of another one."""
        source = random.Random(seed)
        page_tokens = self.facts.page_tokens
        return [source.randrange(self.facts.vocabulary) for _ in range(pages * page_tokens + page_tokens // 2 + 1)]

    def prompts(self, seed: int = 0) -> list[list[int]]:
        """As many as the cache holds with their answers, at most four."""
        count = max(2, min(4, self.facts.usable_pages // (PROMPT_PAGES + 3)))
        return [self.prompt(100 * seed + index) for index in range(count)]

    def fill_cache(self, engine: Engine, times: int = 3, seed: int = 900) -> None:
        """Serves other prompts, two at a time, until the cache has been filled so many times over."""
        rounds = -(-times * self.facts.usable_pages // (2 * PROMPT_PAGES))
        for index in range(rounds):
            for one in range(2):
                engine.submit(self.prompt(seed + 2 * index + one), 2)
            engine.run()

    # -- what is right -----------------------------------------------------------------------------------------

    def ask(self, engine: Engine, prompt: Sequence[int], change: str = "", count: int | None = None) -> Answer:
        """One request; its tokens must be those of an engine without Rekindle."""
        count = self.answer_tokens if count is None else count
        answer = engine.ask(prompt, count)
        right = self.reference.tokens(prompt, count, change)
        if answer.tokens != right:
            at = next((i for i, (a, b) in enumerate(zip(answer.tokens, right, strict=False)) if a != b), len(right))
            seen = (
                f"token {at} of an answer is {answer.tokens[at : at + 1]}, without Rekindle it is {right[at : at + 1]}"
            )
            raise BrokenPromiseError(f"wrong tokens: {seen}; {answer.cached_tokens} tokens of its prompt were cached")
        return answer

    def expect_cached(self, engine: Engine, prompt: Sequence[int], pages: int | None = None) -> Answer:
        """The answer is right, and of the prompt's first `pages` pages (all whole ones) all but one were cached."""
        whole = (len(prompt) - 1) // self.facts.page_tokens
        wanted = max(0, (whole if pages is None else min(pages, whole)) - 1) * self.facts.page_tokens
        answer = self.ask(engine, prompt)
        seen = f"{answer.cached_tokens} tokens of a prompt of {len(prompt)} were cached, wanted at least {wanted}"
        require(answer.cached_tokens >= wanted, seen + self._why(engine))
        return answer

    def committed_pages(self, engines: Iterable[Engine], tokens: Sequence[int]) -> int:
        """How many of the first pages of `tokens` some of these engines have committed or taken back, as one chain."""
        keys: dict[tuple[str, tuple[int, ...]], str] = {}
        for engine in engines:
            for event in engine.seen("commit", "adopt"):
                if event["group"] == 0:
                    keys[event["parent"], tuple(event["tokens"])] = event["key"]
        page_tokens, count, parent = self.facts.page_tokens, 0, ROOT
        while (count + 1) * page_tokens <= len(tokens):
            key = keys.get((parent, tuple(tokens[count * page_tokens : (count + 1) * page_tokens])))
            if key is None:
                break
            parent, count = key, count + 1
        return count

    def _why(self, engine: Engine) -> str:
        """What the shim said of itself, where something was missing."""
        told = [event.get("why") or event.get("error", "") for event in engine.seen("off", "tripped")]
        return f"; the shim is off: {told[0].strip()}" if told else ""

    # -- the end -----------------------------------------------------------------------------------------------

    def require_clean(self) -> None:
        """Raises BrokenPromiseError where any engine broke the rule for pages, or its shim broke down."""
        for engine in self.engines:
            for event in engine.seen("changed"):
                raise BrokenPromiseError(_changed(event))
            for event in engine.seen("tripped") if engine not in self._broken else ():
                raise BrokenPromiseError(f"the shim turned itself off: {event['error'].strip()}")

    def close(self) -> None:
        for engine in self.engines:
            engine.kill()
        for sidecar in self._sidecars:
            sidecar.stop() if isinstance(sidecar, Probe) else sidecar.end()
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.store_dir, ignore_errors=True)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _changed(event: Event) -> str:
    page, epoch, when = event["page"], event["epoch"], event["when"]
    return f"page {page} was committed under epoch {epoch}, and its bytes changed under that epoch, {when}"


def _check_facts(facts: EngineFacts) -> None:
    pages = facts.usable_pages
    require(pages >= MIN_PAGES, f"the driver's engine has {pages} usable pages, the kit needs {MIN_PAGES}")
    wanted = MIN_CONTEXT_PAGES * facts.page_tokens
    seen = f"the driver's engine takes sequences of {facts.context_tokens} tokens, the kit needs {wanted}"
    require(facts.context_tokens >= wanted, seen)
    require(facts.vocabulary >= 2, f"its vocabulary has {facts.vocabulary} tokens")
