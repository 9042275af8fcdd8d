"""The vLLM adapter: knows vLLM's command line and health endpoint. Imports nothing of vLLM."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from typing import ClassVar

from rekindle_plugins.contract.adapter import Adapter, Launch, Wired, refuse_shell
from rekindle_plugins.contract.dialect import Dialect
from rekindle_plugins.contract.plugin import PluginInfo
from rekindle_plugins.vllm.dialect import VllmDialect
from rekindle_plugins.vllm.plugin import INFO
from rekindle_plugins.vllm.wiring import composed, has_flag

FLAG = "--kv-transfer-config"
TRANSFER_CONFIG: Mapping[str, str] = {
    "kv_connector": "RekindleConnector",
    "kv_connector_module_path": "rekindle_plugins.vllm",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}
IMAGES = ("vllm/vllm-openai", "vllm-openai", "llm-d")
"""Images whose entry point is a vLLM server, so that a container may have arguments only."""


class VllmAdapter(Adapter):
    """`vllm serve`, `python -m vllm.entrypoints…`, and containers whose image starts one of them."""

    info: ClassVar[PluginInfo] = INFO

    def recognises(self, launch: Launch) -> bool:
        words = launch.words
        if any(word == "vllm.entrypoints" or word.startswith("vllm.entrypoints.") for word in words):
            return True
        if any(os.path.basename(first) == "vllm" and second == "serve" for first, second in itertools.pairwise(words)):
            return True
        if launch.is_shell:
            return any("vllm serve" in word or "vllm.entrypoints" in word for word in words)
        return not launch.command and any(name in launch.image for name in IMAGES)

    def wire(self, launch: Launch) -> Wired:
        """vLLM takes underscores for dashes, and `--kv-transfer-config.kv_connector=…` for the JSON's fields."""
        refuse_shell(launch, self.info, self.flags())
        if has_flag(launch, FLAG):
            together = composed(launch, FLAG, TRANSFER_CONFIG)
            if together is None:
                hint = f"add {TRANSFER_CONFIG['kv_connector']} to it (docs/disaggregated.md)"
                return Wired(launch, f"vLLM keeps the {FLAG} it was given, which cannot be edited here: {hint}")
            if together == launch:
                return Wired(launch, f"vLLM has {TRANSFER_CONFIG['kv_connector']} in its {FLAG}")
            return Wired(together, f"vLLM gets {TRANSFER_CONFIG['kv_connector']} beside the connector it was given")
        flags = self.flags()
        return Wired(launch.with_args(*flags), f"vLLM gets {flags[0]} '{flags[1]}'")

    def flags(self) -> tuple[str, ...]:
        return (FLAG, json.dumps(dict(TRANSFER_CONFIG), separators=(",", ":")))

    def dialect(self) -> Dialect:
        return VllmDialect()
