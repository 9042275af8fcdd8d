"""Warm-up requests after a restart: the restored prefixes as prompts, one token each.

The connector API has no way to put pages into the engine's prefix cache before somebody asks. So somebody asks: a
prompt that is a stored prefix is restored lazily, and its blocks are published by the engine itself when it is done.
With `TLLM_REKINDLE_WARM_UP_URL` (the engine's own server, http://127.0.0.1:8000) a thread beside the leader does it;
without, whoever wants to calls `warm_up(post, prompts_of(pages, page_tokens))` with a `post` of their own.

Salted pages are left alone: the salt cannot be told from a page, and their tokens must not become anybody else's.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

from rekindle_plugins.client.leader import Leader, PlannedPage
from rekindle_plugins.contract.journal import ROOT
from rekindle_plugins.tensorrt_llm.keys import PLAIN_ROOT, page_key

MAX_PROMPTS = 1024
MAX_PLAN_PAGES = 1 << 17
MAX_FAILURES = 3
PLAN_TIMEOUT_S = 10.0
START_TIMEOUT_S = 1800.0
REQUEST_TIMEOUT_S = 60.0
PAUSE_S = 0.5

Post = Callable[[Sequence[int]], None]
"""Sends one prompt and waits for its end. Raises OSError when the engine does not answer."""


def prompts_of(pages: Sequence[PlannedPage], page_tokens: int) -> list[list[int]]:
    """The prompts that bring these pages back, the best first.

    One for each prefix that no other one goes on from, with one token more: the engine computes at least one, so the
    last page would be left out otherwise. What does not hang together, or has a salt, is left out.
    """
    by_key = {page.key: page for page in pages}
    inner = {page.parent for page in pages}
    prompts: list[list[int]] = []
    for page in pages:
        if page.key not in inner and len(prompts) < MAX_PROMPTS:
            tokens = _prefix(page, by_key, page_tokens)
            if tokens:
                prompts.append([*tokens, tokens[0]])
    return prompts


def _prefix(leaf: PlannedPage, by_key: dict[bytes, PlannedPage], page_tokens: int) -> list[int]:
    """All tokens up to a page's end, if they are what its key says without a salt; nothing otherwise."""
    links = [leaf]
    while links[-1].parent != ROOT:
        parent = by_key.get(links[-1].parent)
        if parent is None or len(links) > len(by_key):
            return []
        links.append(parent)
    key, tokens = PLAIN_ROOT, list[int]()
    for page in reversed(links):
        key = page_key(key, page.tokens)
        if key != page.key or len(page.tokens) != page_tokens:
            return []
        tokens.extend(page.tokens)
    return tokens


def warm_up(post: Post, prompts: Sequence[Sequence[int]]) -> int:
    """Posts one prompt after the other. Returns how many were answered; gives up when several in a row were not."""
    answered = failures = 0
    for prompt in prompts:
        try:
            post(prompt)
        except OSError:
            failures += 1
            if failures >= MAX_FAILURES:
                break
        else:
            answered, failures = answered + 1, 0
    return answered


def poster(url: str, model: str) -> Post:
    """Prompts as token ids to an OpenAI-compatible server's completions."""

    def post(prompt: Sequence[int]) -> None:
        body = {"model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 0}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:
            answer.read(1 << 20)

    return post


def warm_up_engine(
    leader: Leader,
    url: str,
    model: str,
    page_tokens: int,
    loaded_pages: Callable[[], int],
    log: logging.Logger,
) -> None:
    """The thread: waits until the engine serves, sends the prompts, reports. Whatever goes wrong is logged, no more."""
    try:
        if not _wait_until_serving(url):
            log.warning("rekindle: no warm-up: %s does not answer", url)
            return
        started = time.monotonic()
        leader.link.linked.wait(PLAN_TIMEOUT_S)
        pages = leader.plan(min(leader.config.page_count, MAX_PLAN_PAGES), PLAN_TIMEOUT_S)
        prompts = prompts_of(pages, page_tokens)
        answered = warm_up(poster(url, model), prompts)
        restored = loaded_pages()
        leader.report(restored, restored * page_tokens, {}, time.monotonic() - started)
        log.info("rekindle: warmed up with %d of %d prompts, %d pages restored", answered, len(prompts), restored)
    except Exception:
        log.exception("rekindle: the warm-up failed (the engine is not affected)")


def _wait_until_serving(url: str) -> bool:
    deadline, pause = time.monotonic() + START_TIMEOUT_S, threading.Event()
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=REQUEST_TIMEOUT_S) as answer:
                if answer.status == 200:
                    return True
        except (OSError, urllib.error.HTTPError):
            pass
        pause.wait(PAUSE_S)
    return False
