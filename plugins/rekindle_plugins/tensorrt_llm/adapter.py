"""The TensorRT-LLM adapter: knows `trtllm-serve`'s command line. Imports nothing of the engine.

The connector is not set by a flag but in a YAML file (`--config`, older: `--extra_llm_api_options`). Ours lies in this
package, so nothing is written anywhere: a command of this machine is given its path. A command that has such a file
already would need it edited, and a container's file system is not ours to know: both are refused, and told what to add.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from rekindle_plugins.contract.adapter import RUN_DIR_VARIABLE, Adapter, Launch, Wired, refuse_shell
from rekindle_plugins.contract.errors import ConfigError
from rekindle_plugins.contract.plugin import PluginInfo
from rekindle_plugins.tensorrt_llm.plugin import INFO
from rekindle_plugins.tensorrt_llm.settings import ENGINE_RUN_DIR_VARIABLE

PROGRAM = "trtllm-serve"
MODULE = "tensorrt_llm.commands.serve"
FLAG = "--config"
OTHER_FLAGS = ("--extra_llm_api_options", "--extra-llm-api-options")
IMAGES = ("tensorrt-llm", "tensorrtllm", "tensorrt_llm")
ENGINE_YAML = Path(__file__).with_name("engine.yaml")
RECIPE = (
    "put the lines of rekindle_plugins/tensorrt_llm/engine.yaml into the engine's configuration file: "
    "kv_connector_config: {connector_module: rekindle_plugins.tensorrt_llm, "
    "connector_scheduler_class: RekindleScheduler, connector_worker_class: RekindleWorker}; "
    "kv_cache_config: {enable_block_reuse: true, enable_partial_reuse: false, "
    "host_cache_size: 0}; scheduler_config: {capacity_scheduler_policy: GUARANTEED_NO_EVICT}; "
    f"and set {ENGINE_RUN_DIR_VARIABLE} to the sidecar's run directory"
)


class TensorRtLlmAdapter(Adapter):
    """`trtllm-serve …`, also below a launcher, and containers whose image is TensorRT-LLM's."""

    info: ClassVar[PluginInfo] = INFO

    def recognises(self, launch: Launch) -> bool:
        words = launch.words
        if any(os.path.basename(word) == PROGRAM or word == MODULE for word in words):
            return True
        if launch.is_shell:
            return any(PROGRAM in word or MODULE in word for word in words)
        return not launch.command and any(name in launch.image.lower() for name in IMAGES)

    def wire(self, launch: Launch) -> Wired:
        refuse_shell(launch, self.info, (*self.flags(), f"and {ENGINE_RUN_DIR_VARIABLE} to its environment"))
        given = [word for word in launch.words if word.partition("=")[0] in (FLAG, *OTHER_FLAGS)]
        if any(word == str(ENGINE_YAML) or word == f"{FLAG}={ENGINE_YAML}" for word in launch.words):
            return Wired(_with_run_dir(launch), "TensorRT-LLM has the connector already")
        if given:
            problem = f"it has a configuration file already ({given[0]}), which is not ours to edit"
            raise ConfigError("wire", "tensorrt_llm command", problem, RECIPE)
        if launch.image:
            problem = "the connector is set in a file, and where ours lies in that container is not known here"
            raise ConfigError("wire", "tensorrt_llm container", problem, RECIPE)
        flags = self.flags()
        return Wired(_with_run_dir(launch.with_args(*flags)), f"TensorRT-LLM gets {' '.join(flags)}")

    def flags(self) -> tuple[str, ...]:
        return (FLAG, str(ENGINE_YAML))


def _with_run_dir(launch: Launch) -> Launch:
    """The engine's MPI processes get variables of its own prefix only."""
    run_dir = launch.environment.get(RUN_DIR_VARIABLE)
    if run_dir is None or ENGINE_RUN_DIR_VARIABLE in launch.environment:
        return launch
    return launch.with_environment(**{ENGINE_RUN_DIR_VARIABLE: run_dir})
