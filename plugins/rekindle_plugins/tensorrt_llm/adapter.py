"""The TensorRT-LLM adapter: knows `trtllm-serve`'s command line. Imports nothing of the engine.

The connector is not set by a flag but in a YAML file (`--config`, older: `--extra_llm_api_options`). Ours lies in this
package, so nothing is written anywhere: a command is given its path, on this machine or where a container will have
the package (`Launch.plugins_dir`). A command that has such a file already would need it edited, and a container's file
system is not ours to know: both are refused, and told what to add.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from rekindle_plugins.contract.adapter import (
    PROXY_BY_HAND,
    RUN_DIR_VARIABLE,
    Adapter,
    Launch,
    Wired,
    is_wired_script,
    refuse_shell,
)
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.contract.listening import Listening, ServerFlags
from rekindle_plugins.contract.plugin import PluginInfo
from rekindle_plugins.tensorrt_llm.plugin import INFO
from rekindle_plugins.tensorrt_llm.settings import ENGINE_RUN_DIR_VARIABLE

PROGRAM = "trtllm-serve"
MODULE = "tensorrt_llm.commands.serve"
FLAG = "--config"
OTHER_FLAGS = ("--extra_llm_api_options", "--extra-llm-api-options")
IMAGES = frozenset({"tensorrt-llm", "tensorrtllm", "tensorrt_llm"})
"""Parts of paths of images that may have `trtllm-serve` as their entry point."""
OURS_IN_A_SCRIPT = "rekindle_plugins/tensorrt_llm/engine.yaml"
SERVER = ServerFlags(port=8000, host="localhost")
OTHER_SERVERS = ("disaggregated", "disaggregated_mpi_worker", "mm_embedding_serve", "grpc")
"""Subcommands whose server is none of an engine's, or does not know our flag."""
ENGINE_YAML = Path(__file__).with_name("engine.yaml")
RECIPE = (
    "put the lines of rekindle_plugins/tensorrt_llm/engine.yaml into the engine's configuration file: "
    "kv_connector_config: {connector_module: rekindle_plugins.tensorrt_llm, "
    "connector_scheduler_class: RekindleScheduler, connector_worker_class: RekindleWorker}; "
    "kv_cache_config: {enable_block_reuse: true, enable_partial_reuse: false, "
    "host_cache_size: 0}; scheduler_config: {capacity_scheduler_policy: GUARANTEED_NO_EVICT}; "
    f"and set {ENGINE_RUN_DIR_VARIABLE} to the sidecar's run directory (in an injected pod: /run/rekindle/private), "
    "which also says that the lines are there"
)


class TensorRtLlmAdapter(Adapter):
    """`trtllm-serve …`, also below a launcher, and containers whose image is TensorRT-LLM's."""

    info: ClassVar[PluginInfo] = INFO

    def recognises(self, launch: Launch) -> bool:
        words = launch.words
        if _other_server(launch):
            return False
        if any(_is_program(word) for word in words):
            return True
        if launch.is_shell:
            return any(PROGRAM in word or MODULE in word for word in words)
        parts = re.split("[/:@]", launch.image.lower())
        return not launch.command and launch.args[:1] == ("serve",) and not IMAGES.isdisjoint(parts)

    def wire(self, launch: Launch) -> Wired:
        other = _other_server(launch)
        if other:
            raise ConfigError("wire", "tensorrt_llm command", f"{other} is no server of an engine", RECIPE)
        if is_wired_script(launch, OURS_IN_A_SCRIPT):
            return Wired(_with_run_dir(launch), "TensorRT-LLM's script has the connector already")
        refuse_shell(launch, self.info, (*self.flags(), f"and {ENGINE_RUN_DIR_VARIABLE} to its environment"))
        given = [word for word in launch.words if word.partition("=")[0] in (FLAG, *OTHER_FLAGS)]
        ours = _file_of(launch)
        if any(word == ours or word == f"{FLAG}={ours}" for word in launch.words):
            return Wired(_with_run_dir(launch), "TensorRT-LLM has the connector already")
        if given and ENGINE_RUN_DIR_VARIABLE in launch.environment:
            return Wired(launch, f"TensorRT-LLM keeps its configuration file, as {ENGINE_RUN_DIR_VARIABLE} is set")
        if given:
            problem = f"it has a configuration file already ({given[0]}), which is not ours to edit"
            raise ConfigError("wire", "tensorrt_llm command", problem, RECIPE)
        if launch.image and not launch.plugins_dir:
            problem = "the connector is set in a file, and where ours lies in that container is not known here"
            raise ConfigError("wire", "tensorrt_llm container", problem, RECIPE)
        return Wired(_with_run_dir(launch.with_args(FLAG, ours)), f"TensorRT-LLM gets {FLAG} {ours}")

    def listens(self, launch: Launch) -> Listening:
        other = _other_server(launch)
        if other or "--grpc" in launch.words:
            problem = f"{other} is no server of an engine" if other else "it speaks gRPC (--grpc)"
            raise ConfigError("move", "TensorRT-LLM server", problem, PROXY_BY_HAND)
        return SERVER.listening(launch)

    def moved(self, launch: Launch, port: int) -> Launch:
        return SERVER.moved(launch, port)

    def flags(self) -> tuple[str, ...]:
        return (FLAG, str(ENGINE_YAML))


def _is_program(word: str) -> bool:
    return os.path.basename(word) == PROGRAM or word == MODULE


def _other_server(launch: Launch) -> str:
    """The subcommand, where it is one that starts something else; "" where it is not."""
    words: Sequence[str] = launch.words
    if launch.is_shell:
        words = " ".join(words).split()
    elif not launch.command and not any(_is_program(word) for word in words):
        words = (PROGRAM, *words)
    for before, word in itertools.pairwise(words):
        if _is_program(before) and word in OTHER_SERVERS:
            return word
    return ""


def _file_of(launch: Launch) -> str:
    """Where that launch finds our configuration file."""
    if not launch.plugins_dir:
        return str(ENGINE_YAML)
    return str(PurePosixPath(launch.plugins_dir, *__name__.split(".")[:-1], ENGINE_YAML.name))


def _with_run_dir(launch: Launch) -> Launch:
    """The engine's MPI processes get variables of its own prefix only."""
    run_dir = launch.environment.get(RUN_DIR_VARIABLE)
    if run_dir is None or ENGINE_RUN_DIR_VARIABLE in launch.environment:
        return launch
    return launch.with_environment(**{ENGINE_RUN_DIR_VARIABLE: run_dir})
