"""What the TensorRT-LLM plugin says of itself. Imports nothing of the engine: both halves use it."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability, PluginInfo

INFO = PluginInfo(
    name="tensorrt_llm",
    version="0.1.0",
    engine="TensorRT-LLM 1.1 and newer (PyTorch backend)",
    capabilities=frozenset({Capability.LAZY_RESTORE, Capability.MULTI_RANK, Capability.GPU_MEMORY}),
)
