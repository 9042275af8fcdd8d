"""Where the sidecar is, from `kv_connector_extra_config` over the environment over the default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

DEFAULT_RUN_DIR = "/run/rekindle"


@dataclass(frozen=True)
class Settings:
    attach_path: str
    instance: str
    restore_budget_s: float | None
    """None: as the sidecar says in its welcome."""

    @staticmethod
    def of(vllm_config: Any) -> Settings:
        transfer = vllm_config.kv_transfer_config
        extra = transfer.kv_connector_extra_config or {}
        run_dir = extra.get("rekindle_run_dir") or os.environ.get("REKINDLE_RUN_DIR") or DEFAULT_RUN_DIR
        budget = extra.get("rekindle_restore_budget_s")
        return Settings(
            attach_path=os.path.join(str(run_dir), "attach.sock"),
            instance=f"vllm-{transfer.engine_id}",
            restore_budget_s=None if budget is None else float(budget),
        )
