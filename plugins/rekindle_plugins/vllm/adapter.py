"""The vLLM adapter: knows vLLM's command line and health endpoint. Imports nothing of vLLM."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from typing import ClassVar

from rekindle_plugins.contract.adapter import PROXY_BY_HAND, Adapter, Launch, Wired, is_wired_script, refuse_shell
from rekindle_plugins.contract.dialect import Dialect
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.contract.listening import Listening, ServerFlags
from rekindle_plugins.contract.plugin import PluginInfo
from rekindle_plugins.vllm.dialect import VllmDialect
from rekindle_plugins.vllm.plugin import INFO
from rekindle_plugins.vllm.wiring import composed

FLAG = "--kv-transfer-config"
SHORTEST_FLAG = "--kv-t"
"""argparse takes it cut short, as long as nothing else begins so."""
CONNECTOR = "RekindleConnector"
TRANSFER_CONFIG: Mapping[str, str] = {
    "kv_connector": CONNECTOR,
    "kv_connector_module_path": "rekindle_plugins.vllm",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}
BOTH_CONNECTORS = (
    f"give it {FLAG} with kv_connector MultiConnector, and in kv_connector_extra_config.connectors what it has now and "
    + json.dumps(dict(TRANSFER_CONFIG))
)
OFFLOADING = "--kv-o"
"""`--kv-offloading-size`, cut short as far as argparse lets one."""
WITH_OFFLOADING = (
    f"take it out, and {BOTH_CONNECTORS}; what it did is "
    + json.dumps({"kv_connector": "OffloadingConnector", "kv_connector_extra_config": {"cpu_bytes_to_use": 1 << 30}})
    + " for each GiB"
)
CONFIG_FILE = "--config"
SERVER = ServerFlags(port=8000, spelled=lambda flag: flag.replace("_", "-"), is_argparse=True)
NO_PORT: Mapping[str, str] = {
    "--headless": "it has no server (--headless)",
    "--uds": "it listens on a Unix socket (--uds)",
    "--grpc": "it speaks gRPC (--grpc)",
    "--ssl-keyfile": "it speaks TLS (--ssl-keyfile), and the proxy does not",
    "--ssl-certfile": "it speaks TLS (--ssl-certfile), and the proxy does not",
}
GRPC_SERVER = "vllm.entrypoints.grpc_server"
IMAGES = frozenset(
    {"vllm-openai", "vllm-openai-rocm", "vllm-openai-cpu", "vllm-cpu-release-repo", "vllm-arm64-cpu-release-repo"}
    | {
        f"llm-d{device}{stage}"
        for device in ("", "-aws", "-cpu", "-cuda", "-gke", "-hpu", "-rocm", "-xpu")
        for stage in ("", "-dev")
    }
)
"""Names of images whose entry point is a vLLM server, so that a container may have arguments only. Whole names: beside
them lie routers, schedulers and simulators whose names begin the same."""


class VllmAdapter(Adapter):
    """`vllm serve`, `python -m vllm.entrypoints…`, and containers whose image starts one of them."""

    info: ClassVar[PluginInfo] = INFO

    def recognises(self, launch: Launch) -> bool:
        words = launch.words
        for index, word in enumerate(words):
            if word == "vllm.entrypoints.cli.main":
                return words[index + 1 : index + 2] == ("serve",)
            if word == "vllm.entrypoints" or word.startswith("vllm.entrypoints."):
                return True
        if any(os.path.basename(first) == "vllm" and second == "serve" for first, second in itertools.pairwise(words)):
            return True
        if launch.is_shell:
            return any("vllm serve" in word or "vllm.entrypoints" in word for word in words)
        return not launch.command and launch.image_name in IMAGES

    def wire(self, launch: Launch) -> Wired:
        """vLLM takes underscores for dashes, and `--kv-transfer-config.kv_connector=…` for the JSON's fields.

        Two things can put another connector in the place of the one on the command line, or have it put away by ours:
        `--kv-offloading-size`, and a file of flags (`--config`).
        """
        if _offloads(launch):
            problem = f"its --kv-offloading-size puts vLLM's own connector in the place of {CONNECTOR}"
            raise ConfigError("wire", "vllm command", problem, WITH_OFFLOADING)
        if is_wired_script(launch, CONNECTOR):
            return Wired(launch, "vLLM's script has the connector already")
        refuse_shell(launch, self.info, self.flags())
        if not any(word.replace("_", "-").startswith(SHORTEST_FLAG) for word in launch.words):
            flags = self.flags()
            if any(word.partition("=")[0] == CONFIG_FILE for word in launch.words):
                problem = f"the file of its {CONFIG_FILE} may name a connector, in whose place ours would be"
                alone = f"look into it; if it names none, add to the command {flags[0]} '{flags[1]}'"
                raise ConfigError("wire", "vllm command", problem, f"{alone}; else {BOTH_CONNECTORS}")
            return Wired(launch.with_args(*flags), f"vLLM gets {flags[0]} '{flags[1]}'")
        together = composed(launch, FLAG, TRANSFER_CONFIG)
        if together == launch or (together is None and any(CONNECTOR in word for word in launch.words)):
            return Wired(launch, f"vLLM keeps the {FLAG} it was given, which names {CONNECTOR}")
        if together is None:
            problem = f"it has a {FLAG} already, with another connector, that cannot be edited here"
            raise ConfigError("wire", "vllm command", problem, BOTH_CONNECTORS)
        return Wired(together, f"vLLM gets {CONNECTOR} beside the connector it was given")

    def flags(self) -> tuple[str, ...]:
        return (FLAG, json.dumps(dict(TRANSFER_CONFIG), separators=(",", ":")))

    def listens(self, launch: Launch) -> Listening:
        given = {word.partition("=")[0].replace("_", "-") for word in launch.words if word.startswith("--")}
        if GRPC_SERVER in launch.words:
            raise ConfigError("move", "vLLM server", f"it speaks gRPC ({GRPC_SERVER})", PROXY_BY_HAND)
        for flag, problem in NO_PORT.items():
            if flag in given:
                raise ConfigError("move", "vLLM server", problem, PROXY_BY_HAND)
        listening = SERVER.listening(launch)
        if CONFIG_FILE in given and not listening.is_told:
            problem = "its port may be in the file of its --config"
            raise ConfigError("move", "vLLM server", problem, "give it --port, which counts more than the file")
        return listening

    def moved(self, launch: Launch, port: int) -> Launch:
        return SERVER.moved(launch, port)

    def dialect(self) -> Dialect:
        return VllmDialect()


def _offloads(launch: Launch) -> bool:
    words = " ".join(launch.words).split() if launch.is_shell else launch.words
    return any(word.partition("=")[0].replace("_", "-").startswith(OFFLOADING) for word in words)
