"""What the plugin says of itself. Imports nothing of transformers: both halves use it."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability, PluginInfo

INFO = PluginInfo(
    name="transformers",
    version="0.1.0",
    engine="Hugging Face transformers 5.19, continuous batching",
    capabilities=frozenset({Capability.EAGER_RESTORE, Capability.CACHE_RESET}),
)
