"""Where the sidecar is, and what the plugin may use, from the environment.

Only variables whose names begin with TLLM or TRTLLM reach the processes that the engine starts through MPI, so ours
have a second name there: `TLLM_REKINDLE_RUN_DIR` says what `REKINDLE_RUN_DIR` says elsewhere, and goes before it.

    TLLM_REKINDLE_RUN_DIR        the sidecar's run directory
    TLLM_REKINDLE_STAGING_BYTES  host memory of each rank for pages on their way back; bounds what one request restores
    TLLM_REKINDLE_WAIT_MS        how long a new request may wait for its pages
    TLLM_REKINDLE_WARM_UP_URL    the engine's own server, to be sent the restored prefixes (`warm_up`)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from rekindle_plugins.contract.adapter import RUN_DIR_VARIABLE
from rekindle_plugins.contract.errors import ConfigError

PREFIX = "TLLM_REKINDLE_"
ENGINE_RUN_DIR_VARIABLE = f"{PREFIX}RUN_DIR"
DEFAULT_RUN_DIR = "/run/rekindle"
DEFAULT_STAGING_BYTES = 1 << 30
MAX_STAGING_BYTES = 1 << 40
DEFAULT_WAIT_MS = 500
MAX_WAIT_MS = 10_000


@dataclass(frozen=True)
class Settings:
    attach_path: str
    staging_bytes: int = DEFAULT_STAGING_BYTES
    """0: nothing is restored, pages are only kept."""
    wait_s: float = DEFAULT_WAIT_MS / 1000
    warm_up_url: str = ""

    @staticmethod
    def of(environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises ConfigError for a number that is none, or out of bounds."""
        run_dir = environ.get(ENGINE_RUN_DIR_VARIABLE) or environ.get(RUN_DIR_VARIABLE) or DEFAULT_RUN_DIR
        return Settings(
            attach_path=os.path.join(run_dir, "attach.sock"),
            staging_bytes=_number(environ, "STAGING_BYTES", DEFAULT_STAGING_BYTES, MAX_STAGING_BYTES),
            wait_s=_number(environ, "WAIT_MS", DEFAULT_WAIT_MS, MAX_WAIT_MS) / 1000,
            warm_up_url=environ.get(f"{PREFIX}WARM_UP_URL", "").rstrip("/"),
        )


def _number(environ: Mapping[str, str], name: str, default: int, limit: int) -> int:
    text = environ.get(f"{PREFIX}{name}") or str(default)
    if not text.isascii() or not text.isdigit() or int(text) > limit:
        raise ConfigError("read", f"{PREFIX}{name}", f"it is {text!r:.40}, wanted a number from 0 to {limit}")
    return int(text)
