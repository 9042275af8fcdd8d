"""What the nano engine's plugin says of itself: both halves use it."""

from __future__ import annotations

from rekindle_plugins.contract.plugin import Capability, PluginInfo

INFO = PluginInfo(
    name="nano",
    version="0.1.0",
    engine="nano_engine 1",
    capabilities=frozenset(
        {Capability.EAGER_RESTORE, Capability.LAZY_RESTORE, Capability.CACHE_RESET, Capability.STREAM_RESUME}
    ),
)
