"""What the vLLM plugin says of itself. Imports nothing of vLLM: both halves use it."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability, PluginInfo

INFO = PluginInfo(
    name="vllm",
    version="0.1.0",
    engine="vLLM 0.28 to 0.32",
    capabilities=frozenset(
        {
            Capability.EAGER_RESTORE,
            Capability.LAZY_RESTORE,
            Capability.HYBRID_GROUPS,
            Capability.MULTI_RANK,
            Capability.GPU_MEMORY,
            Capability.CACHE_RESET,
            Capability.STREAM_RESUME,
        }
    ),
)
