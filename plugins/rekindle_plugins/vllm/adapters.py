"""Digests of LoRA adapters. vLLM's block hash covers an adapter's name, not its weights; our keys cover both.

Digesting reads files, so it runs on a thread, begun when a request with the adapter comes. Until it is done, such a
request does not commit; it waits with its load, but not for long.

vLLM reads an adapter once and keeps its weights. So the files count as they were when first seen: when they change
after that, nobody can tell which weights are at work, and the adapter is not protected any more.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from rekindle_plugins.contract.errors import IdentityError
from rekindle_plugins.contract.model_files import digest_model_files

MAX_WAIT_S = 2.0

AdapterId = tuple[str, int, str]
"""Name, id, path. An adapter that is unloaded and loaded again gets another id."""
Files = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of each file."""


@dataclass
class _Adapter:
    files: Files
    begun: float
    digest: bytes | None = None
    is_pending: bool = True


class Adapters:
    """Digest by adapter. Nothing here waits."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._adapters: dict[AdapterId, _Adapter] = {}

    def digest(self, lora_request: Any) -> bytes | None:
        """The adapter's digest, or None while it is not known (or cannot be)."""
        adapter = self._find(lora_request)
        return adapter.digest if adapter is not None else None

    def is_pending(self, lora_request: Any) -> bool:
        """Whether it pays to wait for a digest: it is being computed, and has not taken long so far."""
        adapter = self._find(lora_request)
        return adapter is not None and adapter.is_pending and time.monotonic() - adapter.begun < MAX_WAIT_S

    def _find(self, lora_request: Any) -> _Adapter | None:
        """The adapter as first seen; None when its files cannot be read, or are other files by now."""
        name, path = str(lora_request.lora_name), str(lora_request.lora_path)
        try:
            files = _files(path)
        except OSError:
            return None
        key = (name, int(lora_request.lora_int_id), path)
        adapter = self._adapters.get(key)
        if adapter is None:
            adapter = self._adapters[key] = _Adapter(files, time.monotonic())
            work = threading.Thread(
                target=self._compute, args=(name, path, adapter), name="rekindle-adapter", daemon=True
            )
            work.start()
        elif adapter.files != files:
            if adapter.files:
                self._log.warning("rekindle: pages of adapter %s are not protected: its files have changed", name)
            adapter.files = ()
            return None
        return adapter

    def _compute(self, name: str, path: str, adapter: _Adapter) -> None:
        try:
            adapter.digest = bytes.fromhex(digest_model_files(path))
        except IdentityError as error:
            self._log.warning("rekindle: pages of adapter %s are not protected: %s", name, error)
        adapter.is_pending = False


def _files(path: str) -> Files:
    with os.scandir(path) as entries:
        found = [(entry.name, entry.stat()) for entry in entries]
    return tuple(sorted((name, status.st_size, status.st_mtime_ns) for name, status in found))
